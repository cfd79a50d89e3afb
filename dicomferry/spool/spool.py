"""The spool: the source of truth. docs/architecture.md names its folders and files.

Relies on `durable`: an instance exists as soon as its folder is renamed, and a marker appears whole or not at
all. Nothing from the network becomes a path part: ids are hashes, the settings check names of destinations,
transfer syntaxes come from the table.
"""

import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.spool import durable, records
from dicomferry.spool.instance import UID_BYTES, Instance, State
from dicomferry.spool.leases import Leases

SCHEMA = 1
# Keys of a worker's attempts, of those that killed it and of those that found no room on the disk; no
# destination can have these names.
TRANSCODING, ROOM = "_transcode", "_room"
_REDIRECTED, _RENEWED = "redirected.json", "renewed.json"
RECEIVER_BYTES = 8  # in the name of a receiving process, written as hexadecimal digits
_SMALL = 1 << 14  # bytes; more than any record that we write
_FIELDS = tuple(field.name for field in fields(Instance))
SHARDS = tuple(f"{number:02x}" for number in range(256))


@cache
def boot_id() -> str:
    """The id of this boot of the machine; unsynced files of an earlier boot may be damaged."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


class Spool:
    """The folders of one spool, and all reading and writing in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.receivers = Leases(root / "receivers")
        self.instances = root / "instances"
        self.renditions = root / "renditions"
        self.leases = Leases(root / "leases")
        self.trash = root / "trash"
        self.quarantine = root / "quarantine"
        self.destinations = root / "destinations"
        self.orders = root / "orders"
        self.history = root / "history.sqlite"
        self._status = root / "status.json"

    def prepare(self) -> None:
        """Create the folders that are missing; every part calls this before it starts.

        Raises:
            Misconfigured: the spool cannot be created, or another version of dicomferry wrote it.
        """
        try:
            for folder in (
                self.incoming, self.receivers.folder, self.renditions, self.leases.folder,
                self.trash, self.quarantine, self.destinations, self.orders,
                *(self.instances / shard for shard in SHARDS),
            ):  # fmt: skip
                folder.mkdir(parents=True, exist_ok=True)
            (self.renditions / boot_id()).mkdir(exist_ok=True)
            durable.spread_subfolders(self.renditions / boot_id())
            durable.spread_subfolders(self.incoming)
            version = self.root / "schema.json"
            if not version.exists():
                durable.replace(version, json.dumps({"schema": SCHEMA}).encode())
                durable.sync_folder(self.instances)
            found = json.loads(version.read_bytes())["schema"]
        except (OSError, ValueError, KeyError) as error:
            raise Misconfigured(f"spool {self.root}: cannot be used: {error}") from error
        if found != SCHEMA:
            raise Misconfigured(
                f"spool {self.root}: has schema {found}, this dicomferry reads {SCHEMA}; "
                "start the version that wrote it, or name another spool"
            )

    # Instances

    def folder(self, instance: str) -> Path:
        """The folder of the instance with that id."""
        return Path(f"{self.instances}/{instance[:2]}/{instance}")

    def received(self, instance: str) -> Path:
        """The file as received: Part 10, data set bytes exactly as the peer sent them."""
        return Path(f"{self.instances}/{instance[:2]}/{instance}/received.dcm")

    def commit(self, staging: Path, instance: Instance) -> bool:
        """Sync `staging`, which holds received.dcm, and make it the instance's folder.

        When it returns, the caller may answer success. False: the same instance exists already and is still
        pending, so nothing is left to do; `staging` is removed then too.

        Raises:
            OSError: the instance is not safe; `staging` may remain, and is removed later.
        """
        reach("reception.written")
        durable.sync_file(staging / "received.dcm")
        reach("reception.file-synced")
        durable.write_synced(staging / "instance.json", _dump(instance))
        reach("reception.recorded")
        durable.sync_folder(staging)
        reach("reception.folder-synced")
        final = self.folder(instance.id)
        try:
            staging.rename(final)
        except OSError:
            if not (final / "instance.json").exists():
                raise
            durable.remove(staging)
            # The process that renamed it may not have synced the shard yet, and we will answer success too.
            durable.sync_folder(final.parent)
            return False
        reach("reception.renamed")
        durable.sync_folder(final.parent)
        reach("reception.shard-synced")
        return True

    def ids(self, shard: str) -> list[str]:
        """Ids of the instances in one shard."""
        return os.listdir(self.instances / shard)

    def namesakes(self, instance: str) -> list[str]:
        """Ids of all instances with the same SOP Instance UID as `instance`, including `instance`."""
        prefix = instance[: 2 * UID_BYTES]
        return [other for other in self.ids(instance[:2]) if other.startswith(prefix)]

    def read(self, instance: str) -> Instance | None:
        """The instance with that id, or None where it is not (or no longer) there."""
        try:
            content: dict[str, Any] = json.loads(_read_small(self.folder(instance) / "instance.json"))
        except FileNotFoundError:
            return None
        if content.pop("schema") != SCHEMA:
            raise Misconfigured(f"instance {instance} was written by another version of dicomferry")
        content["destinations"] = tuple(content["destinations"])
        content["notes"] = tuple(content.get("notes", ()))
        return Instance(**content)

    def state(self, instance: str) -> State | None:
        """The instance and its markers, or None where it is not (or no longer) there."""
        state = self._read_state(instance)
        if state and state.delivered and not (state.dead or state.pending):
            times = [(self.marker(instance, "delivered", n) or {}).get("at", 0.0) for n in state.delivered]
            state = replace(state, delivered_at=max(times))
        return state

    def _read_state(self, instance: str) -> State | None:
        """The state without `delivered_at`, for which each delivered marker has to be read."""
        found = self.read(instance)
        if found is None:
            return None
        try:
            names = os.listdir(self.folder(instance))
        except FileNotFoundError:
            return None
        redirected, redirected_at = self._redirected(instance) if _REDIRECTED in names else (None, 0.0)
        renewed_at = self._renewed(instance) if _RENEWED in names else 0.0
        delivered = frozenset(_between(name, "delivered-", ".json") for name in names) - {""}
        dead = frozenset(_between(name, "dead-", ".json") for name in names) - {""} - delivered
        if redirected is not None:
            dead &= frozenset(redirected)
        attempts = {
            what: self.attempts(instance, what) for name in names if (what := _between(name, "attempts-", ""))
        }
        return State(found, delivered, dead, attempts, redirected, renewed_at=max(redirected_at, renewed_at))

    def redirect(self, instance: str, destinations: tuple[str, ...], why: str) -> None:
        """Durably replace the destinations of an instance."""
        record = {"schema": SCHEMA, "destinations": destinations, "why": why, "at": time.time()}
        durable.replace(self.folder(instance) / _REDIRECTED, json.dumps(record).encode())

    def _redirected(self, instance: str) -> tuple[tuple[str, ...] | None, float]:
        try:
            record = json.loads((self.folder(instance) / _REDIRECTED).read_bytes())
        except FileNotFoundError:
            return None, 0.0
        return tuple(record["destinations"]), record["at"]

    def renew(self, instance: str) -> None:
        """Record durably that an operator asked for its delivery; its age counts from now."""
        durable.replace(self.folder(instance) / _RENEWED, json.dumps({"at": time.time()}).encode())

    def _renewed(self, instance: str) -> float:
        try:
            at: float = json.loads((self.folder(instance) / _RENEWED).read_bytes())["at"]
        except FileNotFoundError:
            return 0.0
        return at

    def mark_delivered(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Record durably that `destination` has the instance; this overrides a dead marker."""
        durable.replace(self.folder(instance) / f"delivered-{destination}.json", json.dumps(record).encode())

    def mark_dead(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Record durably that a delivery is dead, with its reason."""
        durable.replace(self.folder(instance) / f"dead-{destination}.json", json.dumps(record).encode())

    def marker(self, instance: str, kind: str, destination: str) -> dict[str, Any] | None:
        """The content of a marker (`kind` "delivered" or "dead"), or None where there is none."""
        try:
            content: dict[str, Any] = json.loads(
                _read_small(self.folder(instance) / f"{kind}-{destination}.json")
            )
        except FileNotFoundError:
            return None
        return content

    def unmark(self, instance: str, kind: str, destination: str) -> None:
        """Durably remove a marker (`kind` "delivered" or "dead"); the delivery is pending again."""
        path = self.folder(instance) / f"{kind}-{destination}.json"
        with suppress(FileNotFoundError):
            path.unlink()
            durable.sync_folder(path.parent)

    def is_delivered(self, instance: str, destination: str) -> bool:
        """Whether there is a delivered marker."""
        return (self.folder(instance) / f"delivered-{destination}.json").exists()

    def add_attempt(self, instance: str, what: str) -> int:
        """Durably count an attempt before it is made; returns the number of attempts with this one."""
        return durable.append_synced(self.folder(instance) / f"attempts-{what}", b".")

    def clear_attempts(self, instance: str, what: str) -> None:
        """Reset the count of attempts."""
        (self.folder(instance) / f"attempts-{what}").unlink(missing_ok=True)

    def attempts(self, instance: str, what: str) -> int:
        """How many attempts were counted."""
        try:
            return (self.folder(instance) / f"attempts-{what}").stat().st_size
        except FileNotFoundError:
            return 0

    def retire(self, instance: str) -> bool:
        """Remove an instance if all its deliveries are delivered; returns whether they are."""
        state = self._read_state(instance)
        if state is None or set(state.destinations) - state.delivered:
            return False
        trashed = self.trash / f"{instance}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            reach("retirement.begun")
            self.folder(instance).rename(trashed)
            reach("retirement.renamed")
            durable.remove(trashed)
        self.drop_renditions(instance)
        return True

    def drop_renditions(self, instance: str) -> None:
        """Delete the renditions of an instance; they can be made again."""
        durable.remove(self.renditions / boot_id() / instance)

    # Renditions

    def rendition(self, boot: str, instance: str, key: str) -> Path:
        """The path of the rendition `key` (a `RenditionSpec.key`) of an instance; it may not exist."""
        return Path(f"{self.renditions}/{boot}/{instance}/{key}.dcm")

    def rendition_records(self, instance: str) -> list[dict[str, Any]]:
        """The records of an instance's renditions, each with its "key", sorted by key."""
        found = []
        for path in sorted((self.renditions / boot_id() / instance).glob("*.dcm")):
            with suppress(OSError):
                if kept := records.read(path):
                    found.append({"key": path.stem} | kept)
        return found

    def sweep(self) -> None:
        """Delete renditions of other boots or of no instance, and the trash; the dispatcher's first act."""
        for boot in self.renditions.iterdir():
            for folder in boot.iterdir():
                # A second worker may have made it while its instance was retired.
                if boot.name != boot_id() or not self.folder(folder.name).exists():
                    shutil.rmtree(folder, ignore_errors=True)
            if boot.name != boot_id():
                shutil.rmtree(boot, ignore_errors=True)
        for trashed in self.trash.iterdir():
            durable.remove(trashed)
        for left in durable.leftover_temporaries(self._status):
            left.unlink(missing_ok=True)

    # Peers

    def learn(self, destination: str, accepted: dict[str, list[str]]) -> None:
        """Remember which transfer syntaxes a peer accepted, by SOP class."""
        record = {"schema": SCHEMA, "accepted": accepted, "seen_at": time.time()}
        durable.replace(self.destinations / f"{destination}.json", json.dumps(record).encode())

    def learned(self, destination: str) -> dict[str, list[str]]:
        """Which transfer syntaxes a peer accepted, by SOP class; empty where none are remembered."""
        try:
            record = json.loads((self.destinations / f"{destination}.json").read_bytes())
            accepted: dict[str, list[str]] = record["accepted"] if record["schema"] == SCHEMA else {}
        except (FileNotFoundError, ValueError, KeyError):
            return {}
        return accepted

    # The status of the dispatcher

    def write_status(self, status: dict[str, Any]) -> None:
        """Write a snapshot of all lanes, for people and programs; it can be lost, so it is not synced."""
        temporary = durable.temporary_path(self._status)
        temporary.write_text(json.dumps(status))
        temporary.rename(self._status)

    def status(self) -> dict[str, Any] | None:
        """The last snapshot, its "at" in seconds since the epoch; None where there is none yet."""
        try:
            content: dict[str, Any] = json.loads(self._status.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return content

    def forget_status(self) -> None:
        """Delete the last snapshot, so that the next one to appear is new."""
        self._status.unlink(missing_ok=True)


def _dump(instance: Instance) -> bytes:
    # Not asdict, which copies deeply.
    return json.dumps({"schema": SCHEMA} | {name: getattr(instance, name) for name in _FIELDS}).encode()


def _read_small(path: Path) -> bytes:
    """The content of a small file, in three system calls; `Path.read_bytes` takes nine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _SMALL)
    finally:
        os.close(descriptor)
    return content if len(content) < _SMALL else path.read_bytes()


def _between(name: str, prefix: str, suffix: str) -> str:
    """The part of `name` between `prefix` and `suffix`; empty where it lacks one of them."""
    return (
        name[len(prefix) : len(name) - len(suffix)]
        if name.startswith(prefix) and name.endswith(suffix)
        else ""
    )
