"""DCMTK's tools as peers: dcmsend is the PACS, a stock storescp the workstation."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.images.files import fresh_copies, uid_of
from tests.support.running.ports import is_listening
from tests.support.running.processes import open_files, wait_until
from tests.support.running.services import program


class Workstation:
    """A stock storescp: accepts only uncompressed syntaxes and serves one association at a time.

    `options` are storescp's own, such as ``+xa`` to accept every syntax.
    """

    def __init__(self, folder: Path, port: int, *options: str, title: str = "WS1") -> None:
        self.folder = folder
        self.port = port
        self._command = [
            program("storescp"),
            "-aet",
            title,
            "-od",
            str(folder),
            "+uf",
            *options,
            str(port),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: is_listening(self.port), "storescp to listen")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def files(self) -> list[Path]:
        """Everything it has stored, whole: what came twice is there twice."""
        found = list(self.folder.iterdir()) if self.folder.exists() else []
        writing = self._writing()  # looked at last: a file that is listed is open until it is whole
        return [path for path in found if str(path) not in writing]

    def _writing(self) -> set[str]:
        if self._process is None or self._process.poll() is not None:
            return set()
        return open_files(self._process.pid)

    def by_uid(self) -> dict[str, Path]:
        """Its files by SOP Instance UID."""
        return {uid_of(path): path for path in self.files()}


def send(
    port: int, files: Sequence[Path], *options: str, called: str = "FERRY"
) -> "subprocess.CompletedProcess[str]":
    """Send files as a PACS would, in the syntax that they have, in one association where that goes."""
    return subprocess.run(
        [
            program("dcmsend"),
            "-aet",
            "PACS",
            "-aec",
            called,
            *options,
            "127.0.0.1",
            str(port),
            *map(str, files),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def serves(port: int, folder: Path) -> None:
    """Send one image, made in `folder`, and fail unless it is taken."""
    sent = send(port, fresh_copies("CT_small.dcm", 1, folder))
    assert sent.returncode == 0, sent.stdout + sent.stderr
