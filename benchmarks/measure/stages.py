"""Stages of the pipeline alone: ingest, the forwarder with a dispatcher, the workers.

The results stand in the JSON file under the names of the public functions.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.machine.programs import Failure, Programs
from benchmarks.machine.usage import usage
from benchmarks.measure.rounds import bare_codec
from benchmarks.peers.contenders import worker_counts
from benchmarks.peers.jobs import UIDS, Objects
from benchmarks.peers.sender import OwnSender, send
from benchmarks.peers.sink import sink
from benchmarks.peers.site import Site
from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import TranscodeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.spool import boot_id
from dispatcher.publisher import Publisher
from dispatcher.rendering import MAX_TRANSCODE_INSTANCES

_WARM = 8  # objects
_ASSOCIATIONS = (1, 4, 16, 64)
_TIMEOUT = 4.0  # seconds of one wait for an event; less than the client's own timeout of 5
_SILENCE = 120.0  # seconds without an event: one object of many frames takes some


def ingest_then_forward(objects: Objects, folder: Path, programs: Programs) -> dict[str, Any]:
    """Receive objects that need no codec with ingest alone, then deliver them.

    Ingest is measured while dcmsend runs, delivery from the dispatcher's start, when the forwarder is up.
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
    """How many objects a second ingest receives over 1 to 64 associations at once."""
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


def transcoding(objects: Objects, folder: Path, programs: Programs) -> list[dict[str, Any]]:
    """How many objects a second the workers transcode while nothing else runs, beside the bare codec.

    They get batches through Celery, as from the dispatcher, of a spool that ingest has filled.
    """
    site = Site(folder, 9, [objects.job.shown or "uncompressed"])
    with site.redis(programs) as broker:
        with site.part(programs, "ingest", broker):
            site.wait_for("ingest", broker)
            send(site.port, objects.paths, {}).finish()
        return [
            {"workers": workers, "bare": bare_codec(objects, workers).rate}
            | _transcode(objects, site, broker, workers, programs)
            for workers in worker_counts()
        ]


def _transcode(
    objects: Objects, site: Site, broker: str, workers: int, programs: Programs
) -> dict[str, float]:
    """Transcode all objects once, then remove the renditions again."""
    spec = RenditionSpec(UIDS[objects.job.shown] if objects.job.shown else EXPLICIT_LE)
    instances, redis = site.instances(), client_for(broker)
    if len(instances) != len(objects.paths):
        raise Failure(f"{len(instances)} of {len(objects.paths)} objects are on the spool")
    redis.delete(events.EVENTS_KEY)
    with site.part(programs, "worker", broker, "--concurrency", str(workers)) as session:
        site.wait_for("worker", broker)
        _make_renditions(site, broker, spec, instances[: 2 * _WARM * workers], _WARM)
        for instance in instances:
            site.spool.drop_renditions(instance)
        os.sync()
        before, redis_before = usage({"worker": session})["worker"], _redis_usage(redis)
        seconds = _make_renditions(site, broker, spec, instances, MAX_TRANSCODE_INSTANCES)
        used = usage({"worker": session})["worker"].since(before)
        cpu, commands = (now - then for now, then in zip(_redis_usage(redis), redis_before, strict=True))
    made = [site.spool.rendition(boot_id(), instance, spec.key).exists() for instance in instances]
    if not all(made):
        raise Failure(f"{sum(made)} of {len(made)} renditions were made")
    for instance in instances:
        site.spool.drop_renditions(instance)
    count = len(instances)
    return {
        "rate": count / seconds,
        "cpu_ms": 1000 * used.cpu / count,
        "peak_mib": used.peak / (1 << 20),
        "redis_cpu_ms": 1000 * cpu / count,
        "redis_commands": commands / count,  # with our own, one for each event
    }


def _make_renditions(
    site: Site, broker: str, spec: RenditionSpec, instances: Sequence[str], most: int
) -> float:
    """Have renditions made in batches of at most `most`, smaller ones at the end.

    Returns the seconds from the start of the first batch to the end of the last.
    """
    app, redis = celery_app(site.settings(broker)), client_for(broker)
    publisher, ids, left = Publisher(app, redis), set(), list(instances)
    while left:
        size = min(most, -(-len(left) // 4))
        batch = TranscodeBatch(new_batch_id(), boot_id(), spec, tuple(left[:size]))
        del left[:size]
        site.spool.leases.create(batch.id, LeaseContent(batch.instances))
        publisher.publish(batch, f"{len(batch.instances)} objects")
        ids.add(batch.id)
    app.close()
    began, heard = None, time.monotonic()
    while ids:
        message = redis.blpop([events.EVENTS_KEY], timeout=_TIMEOUT)
        if message is None:
            if time.monotonic() - heard > _SILENCE:
                raise Failure(f"the workers said nothing for {_SILENCE:g} s")
            continue
        heard = time.monotonic()
        event = events.parse(message[1])
        if isinstance(event, events.Started):
            began = began or time.monotonic()
        elif isinstance(event, events.Finished):
            ids.discard(event.batch)
        elif isinstance(event, events.Failed | events.Unsuitable):
            raise Failure(event.reason)
    return time.monotonic() - (began or 0.0)


def _redis_usage(redis: Redis) -> tuple[float, int]:
    """Seconds of processor time and number of commands that Redis has used so far."""
    found: dict[str, Any] = redis.info("cpu") | redis.info("stats")
    return found["used_cpu_sys"] + found["used_cpu_user"], found["total_commands_processed"]
