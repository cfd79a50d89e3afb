"""Starts the programs of a benchmark and ends them; free ports, and waiting."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.local.warden import WAIT_FOR_GO, Warden

Environment = Mapping[str, str]
Sessions = Mapping[str, int]  # by part: the id of the session that its processes are in

_GRACE = 30.0  # seconds from SIGTERM to SIGKILL
# Debian's folders first: pynetdicom and others install tools of the same names into a venv.
_FOLDERS = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/usr/sbin"))


class Failure(Exception):  # noqa: N818  a finding about a contender
    """A contender does not do its job; ``str()`` says what happened."""


def tool(name: str) -> str:
    """The path of a program that a package installs. Raises Failure where it is missing."""
    found = shutil.which(name, path=_FOLDERS)
    if found is None:
        raise Failure(f"{name} is not installed")
    return found


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Poll until `condition()` is true; not inside a measured span. Raises Failure after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    """Whether a program listens on `port`. It makes no connection, which a stock storescp would serve."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines():
            columns = line.split()
            if columns[1].endswith(f":{port:04X}") and columns[3] == "0A":
                return True
    return False


class Programs:
    """Starts programs, each for a context. If this process is killed, they end and `folder` is removed."""

    def __init__(self, folder: Path) -> None:
        self._warden = Warden([folder])

    @contextmanager
    def running(
        self, command: Sequence[str], log: Path, environment: Environment | None = None
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a program in a session of its own; its output goes to the file `log`."""
        # Settings of a real dicomferry on this machine are not for this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFERRY_")}
        waiting, gate = os.pipe()
        with log.open("ab") as output:
            program = subprocess.Popen(
                [*WAIT_FOR_GO, *command],
                stdin=waiting,
                stdout=output,
                stderr=output,
                env=inherited | dict(environment or {}),
                start_new_session=True,
            )
        os.close(waiting)
        self._warden.register(program.pid, gate)
        try:
            yield program
        except Failure as failure:
            if program.poll() is None:
                raise
            how = signal.Signals(-program.returncode).name if program.returncode < 0 else program.returncode
            raise Failure(f"{Path(command[0]).name} has ended: {how}") from failure
        finally:
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(_GRACE)
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            self._warden.forget(program.pid)

    def close(self) -> None:
        """End the programs that still run, and remove the folder."""
        self._warden.close()
