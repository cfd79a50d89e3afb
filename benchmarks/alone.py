"""The ends of the pipeline by themselves: ingest without the rest, and a dispatcher with a forwarder."""

import shutil
import time
from pathlib import Path
from typing import Any

from machine import Failure, Programs, usage
from parts import Site
from peers import OwnSender, send, sink
from work import Objects

_WARM = 8  # objects
_ASSOCIATIONS = (1, 4, 16, 64)


def ingest_then_forward(objects: Objects, folder: Path, programs: Programs) -> dict[str, Any]:
    """Fill a spool with objects that need no codec through ingest alone, then deliver them.

    Ingest is measured while dcmsend runs; delivery from the dispatcher's start, the forwarder being up.
    """
    warm, rest = objects.paths[:_WARM], objects.paths[_WARM:]
    count = len(objects.paths)
    with sink(programs, folder, {}) as received:
        site = Site(folder, received.port, ["uncompressed"])
        with site.redis(programs) as broker:
            with site.part(programs, "ingest", broker) as session:
                site.wait_for("ingest", broker)
                send(site.port, warm, {}).finish()
                before = usage({"ingest": session})["ingest"]
                began = time.monotonic()
                sender = send(site.port, rest, {})
                sender.finish()
                seconds = time.monotonic() - began
                used = usage({"ingest": session})["ingest"].since(before)
            ingest = {
                "rate": len(rest) / seconds,
                "cpu_ms": 1000 * used.cpu / len(rest),
                "written_bytes": used.written / len(rest),
                "peak_mib": used.peak / (1 << 20),
            }
            with site.part(programs, "forwarder", broker) as forwarder:
                site.wait_for("forwarder", broker)
                before = usage({"forwarder": forwarder})["forwarder"]
                began = time.monotonic()
                with site.part(programs, "dispatcher", broker) as dispatcher:
                    times = received.wait(count, sender)
                    parts = usage({"forwarder": forwarder, "dispatcher": dispatcher})
            used = parts["forwarder"].since(before)
            return {
                "object_bytes": objects.sent_bytes,
                "ingest": ingest,
                "forward": {
                    "rate": count / (times[-1] - began),
                    "until_first": times[0] - began,
                    "rate_from_first": (count - 1) / (times[-1] - times[0]),
                    "cpu_ms": 1000 * used.cpu / count,
                    "dispatcher_cpu_ms": 1000 * parts["dispatcher"].cpu / count,
                    "peak_mib": used.peak / (1 << 20),
                },
            }


def associations(objects: Objects, folder: Path, programs: Programs) -> list[dict[str, Any]]:
    """How many objects a second ingest takes over that many associations at once."""
    found = []
    for number in _ASSOCIATIONS:
        place = folder / f"{number}"
        site = Site(place, 9, ["uncompressed"])
        row: dict[str, Any] = {"associations": number}
        try:
            with site.redis(programs) as broker, site.part(programs, "ingest", broker) as session:
                site.wait_for("ingest", broker)
                OwnSender(site.port, objects.paths[:_WARM]).finish()
                before = usage({"ingest": session})["ingest"]
                began = time.monotonic()
                OwnSender(site.port, objects.paths[_WARM:], number).finish()
                seconds = time.monotonic() - began
                used = usage({"ingest": session})["ingest"].since(before)
                count = len(objects.paths) - _WARM
                row |= {
                    "rate": count / seconds,
                    "cpu_ms": 1000 * used.cpu / count,
                    "peak_mib": used.peak / (1 << 20),
                }
        except Failure as failure:
            row["failed"] = str(failure)
        shutil.rmtree(place)
        found.append(row)
    return found
