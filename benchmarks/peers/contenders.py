"""The contenders: dicomferry, Orthanc, and the script that people write."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.machine.programs import (
    Environment,
    Failure,
    Programs,
    Sessions,
    free_port,
    is_listening,
    tool,
    wait_until,
)
from benchmarks.machine.usage import cores
from benchmarks.peers.jobs import UIDS, Job
from benchmarks.peers.sender import TUNED
from benchmarks.peers.sink import Sink
from benchmarks.peers.site import OURS, Site

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancGdcm.so")


@dataclass(frozen=True)
class Running:
    """A contender that is ready for objects."""

    port: int
    sessions: Sessions  # its parts
    settle: Callable[[], None]  # waits until it holds no object any more


@dataclass(frozen=True)
class Contender:
    """A program that receives objects and sends them to the sink.

    `share` is the part of a job's objects that it gets: less for slow ones, whose rate is constant anyway.
    """

    name: str
    run: Callable[[Job, Sink, Path, Programs], AbstractContextManager[Running]]
    peers: Environment = field(default_factory=dict)  # of dcmsend and storescp
    share: float = 1.0


def worker_counts() -> list[int]:
    """1, 2, 4... and as many as there are cores."""
    return sorted({min(1 << n, cores()) for n in range(cores().bit_length() + 1)})


def ferry(workers: int) -> Contender:
    """`dicomferry up` with that many transcoding processes, and stock peers."""
    return Contender(ferry_name(workers), partial(_ferry, (workers, OURS)))


def against(commit: str, program: Path) -> Contender:
    """The `dicomferry up` of another commit, with a transcoding process for each core."""
    return Contender(f"dicomferry {commit}", partial(_ferry, (cores(), (str(program),))))


@contextmanager
def _ferry(
    how: tuple[int, Sequence[str]], job: Job, sink: Sink, folder: Path, programs: Programs
) -> Iterator[Running]:
    """Run `how`: with so many workers, by that command line."""
    site = Site(folder, sink.port, [job.shown or "uncompressed"], *how)
    with site.up(programs) as sessions:
        yield Running(site.port, sessions, lambda: wait_until(site.is_empty, "an empty spool"))


def ferry_name(workers: int) -> str:
    """The contender's name."""
    return f"dicomferry, {workers} worker{'s' * (workers > 1)}"


@contextmanager
def _orthanc(
    environment: Environment, job: Job, sink: Sink, folder: Path, programs: Programs
) -> Iterator[Running]:
    """Debian's Orthanc with its GDCM plugin; a Lua script forwards each stored instance."""
    if not _PLUGIN.exists():
        raise Failure("Orthanc's GDCM plugin is not installed")
    dicom, http = free_port(), free_port()
    script = folder / "route.lua"
    script.write_text(
        "function OnStoredInstance(instanceId, tags, metadata)\n  SendToModality(instanceId, 'sink')\nend\n"
    )
    configuration: dict[str, Any] = {
        "Name": "benchmark", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "DicomAet": "FERRY", "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "Plugins": [str(_PLUGIN)], "LuaScripts": [str(script)],
        "DicomModalities": {"sink": ["SINK", "127.0.0.1", sink.port]},
    }  # fmt: skip
    if job.shown:
        # While sending, Orthanc transcodes only to uncompressed syntaxes.
        configuration["IngestTranscoding"] = UIDS[job.shown]
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    command = [tool("Orthanc"), str(folder / "orthanc.json")]
    with programs.running(command, folder / "orthanc.log", environment) as program:
        wait_until(lambda: is_listening(dicom) and is_listening(http), "Orthanc to listen")

        def settle() -> None:
            # Orthanc does not route an object that it already has.
            for patient in _request(http, "GET", "/patients"):
                _request(http, "DELETE", f"/patients/{patient}")

        yield Running(dicom, {"Orthanc": program.pid}, settle)


def _request(port: int, method: str, path: str) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
    except (OSError, ValueError) as error:
        raise Failure(f"Orthanc does not answer: {error}") from error
    finally:
        connection.close()


@contextmanager
def _script(job: Job, sink: Sink, folder: Path, programs: Programs) -> Iterator[Running]:
    """A storescp that runs gdcmconv and dcmsend for each file."""
    received = folder / "received-by-script"
    received.mkdir()
    script = folder / "on-reception.sh"
    option = "--jpegls" if job.shown else "--raw"
    script.write_text(
        f'#!/bin/sh\n{tool("gdcmconv")} {option} "$1" "$1.out" &&\n'
        f'{tool("dcmsend")} -dn -aec SINK 127.0.0.1 {sink.port} "$1.out"\nrm -f "$1" "$1.out"\n'
    )
    port = free_port()
    command = [
        tool("storescp"), "-aet", "FERRY", "-od", str(received), "+uf", "+xa",
        "--exec-on-reception", f"/bin/sh {script} #p/#f", str(port),
    ]  # fmt: skip
    with programs.running(command, folder / "script.log") as program:
        wait_until(lambda: is_listening(port), "storescp to listen")
        yield Running(
            port, {"script": program.pid}, lambda: wait_until(lambda: not os.listdir(received), "the script")
        )


def contenders(workers: Sequence[int]) -> list[Contender]:
    """All contenders; dicomferry once for each number of workers."""
    return [
        *map(ferry, workers),
        Contender("Orthanc", lambda *given: _orthanc({}, *given), share=0.25),
        Contender("Orthanc, TCP_NODELAY", lambda *given: _orthanc(TUNED, *given), peers=TUNED),
        Contender("script", _script, share=0.25),
    ]
