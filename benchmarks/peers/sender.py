"""The sending end of every contender: DCMTK's dcmsend, as Debian ships it, or the forwarder's requestor.

TUNED is the environment that switches Nagle's algorithm off in programs made with DCMTK.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine.programs import Environment, Failure, tool
from dicomferry.dicom.part10 import read_meta
from dicomferry.errors import FerryError
from dicomferry.settings import Destination
from forwarder.dimse.scu import Association

TUNED: Environment = {"TCP_NODELAY": "1"}
_LONGEST = 120.0  # seconds for a sender to end when all has arrived
_UNKNOWN_TO_DCMTK = ("1.2.840.10008.1.2.4.20",)  # HTJ2K, before 3.6.9


class Sender:
    """Sends files unchanged. It begins when it is constructed."""

    @property
    def has_ended(self) -> bool:
        """Whether sending has ended."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise Failure if sending has failed."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until all is sent, then `check`."""
        raise NotImplementedError


class Dcmsend(Sender):
    """One association of a stock dcmsend."""

    def __init__(self, port: int, paths: Sequence[Path], environment: Environment) -> None:
        command = [tool("dcmsend"), "-dn", "-aet", "PACS", "-aec", "FERRY", "127.0.0.1", str(port)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in `finish`
        self._process = subprocess.Popen(
            [*command, *map(str, paths)],
            stdout=self._output,
            stderr=self._output,
            env=os.environ | dict(environment),
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        if self._process.poll():
            self._output.seek(0)
            lines = self._output.read().decode(errors="replace").splitlines()
            raise Failure(f"dcmsend failed: {lines[-1] if lines else self._process.returncode}")

    def finish(self) -> None:
        try:
            self._process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.check()
        self._output.close()


class OwnSender(Sender):
    """The forwarder's requestor: for syntaxes that dcmsend does not know, and many associations at once."""

    def __init__(self, port: int, paths: Sequence[Path], associations: int = 1) -> None:
        self._peer = Destination(name="contender", title="FERRY", host="127.0.0.1", port=port)
        self._failure: str | None = None
        shares = [paths[n::associations] for n in range(min(associations, len(paths)))]
        self._threads = [threading.Thread(target=self._run, args=[share], daemon=True) for share in shares]
        for thread in self._threads:
            thread.start()

    def _run(self, paths: Sequence[Path]) -> None:
        try:
            metas = [read_meta(path) for path in paths]
            contexts = sorted({(meta.sop_class_uid, meta.transfer_syntax_uid) for meta in metas})
            association = Association.request(self._peer, "PACS", contexts)
            for path, meta in zip(paths, metas, strict=True):
                with path.open("rb") as file:
                    status = association.store(file, meta)
                if status != 0:
                    raise Failure(f"C-STORE was answered with 0x{status:04X}")  # noqa: TRY301
            association.release()
        except KeyError:
            self._failure = "the transfer syntax is not accepted"
        except (Failure, FerryError, OSError) as error:
            self._failure = str(error)

    @property
    def has_ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        if self._failure is not None:
            raise Failure(self._failure)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(_LONGEST)
        self.check()
        if not self.has_ended:
            raise Failure(f"still sending after {_LONGEST:g} s")


def send(port: int, paths: Sequence[Path], environment: Environment) -> Sender:
    """Begin to send `paths` with dcmsend, or with our own sender if dcmsend does not know their syntax."""
    syntax = read_meta(paths[0]).transfer_syntax_uid
    known = not syntax.startswith(_UNKNOWN_TO_DCMTK)
    return Dcmsend(port, paths, environment) if known else OwnSender(port, paths)
