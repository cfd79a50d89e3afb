"""The spool: the source of truth. docs/architecture.md names its folders and files.

Relies on `durable`: an instance exists as soon as its file is renamed, and a marker appears whole or not at
all. Nothing from the network becomes a path part: ids are hashes, the settings check names of destinations,
transfer syntaxes come from the table.
"""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.spool import durable, records, seats
from dicomferry.spool.departures import Departure, Departures
from dicomferry.spool.instance import UID_BYTES, Instance, State
from dicomferry.spool.leases import Leases
from dicomferry.spool.markers import Markers
from dicomferry.spool.places import RECORD, Places

SCHEMA = 2  # of the layout; 1 is read too, see `places`
# Keys of a worker's attempts, of those that killed it and of those that found no room on the disk; no
# destination can have these names.
TRANSCODING, ROOM = "_transcode", "_room"
RECEIVER_BYTES = 8  # in the name of a receiving process, written as hexadecimal digits
SHARDS = tuple(f"{number:02x}" for number in range(256))


@cache
def boot_id() -> str:
    """The id of this boot of the machine; unsynced files of an earlier boot may be damaged."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


class Spool(Markers):
    """The folders of one spool, and all reading and writing in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.receivers = Leases(root / "receivers")
        self.instances = root / "instances"
        self.renditions = root / "renditions"
        self.leases = Leases(root / "leases")
        self.trash = root / "trash"
        super().__init__(Places(self.instances, self.trash))
        self._departures = Departures(root / "delivered")
        self.quarantine = root / "quarantine"
        self.destinations = root / "destinations"
        self.orders = root / "orders"
        self.seats = root / "seats"
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
                self.trash, self._departures.folder, self.quarantine, self.destinations, self.orders,
                self.seats,
                *(self.instances / shard for shard in SHARDS),
            ):  # fmt: skip
                folder.mkdir(parents=True, exist_ok=True)
            (self.renditions / boot_id()).mkdir(exist_ok=True)
            for folder in (
                self.renditions / boot_id(), self.incoming, *(self.instances / shard for shard in SHARDS)
            ):  # fmt: skip
                durable.spread_subfolders(folder)
            version = self.root / "schema.json"
            found = json.loads(version.read_bytes())["schema"] if version.exists() else 0
            if found < SCHEMA:  # from now on an earlier version refuses it
                durable.replace(version, json.dumps({"schema": SCHEMA}).encode())
                durable.sync_folder(self.instances)
                found = SCHEMA
        except (OSError, ValueError, KeyError) as error:
            raise Misconfigured(f"spool {self.root}: cannot be used: {error}") from error
        if found != SCHEMA:
            raise Misconfigured(
                f"spool {self.root}: has schema {found}, this dicomferry reads {SCHEMA}; "
                "start the version that wrote it, or name another spool"
            )

    # Instances

    def folder(self, instance: str) -> Path:
        """The folder of the instance's markers; as a rule there is none."""
        return self._places.folder(instance)

    def received(self, instance: str) -> Path:
        """The file as received: Part 10, data set bytes exactly as the peer sent them."""
        return self._places.received(instance)

    def exists(self, instance: str) -> bool:
        """Whether the instance is there."""
        return self._places.exists(instance)

    def is_taken(self, instance: str) -> bool:
        """Whether no other object may have that id."""
        return self._places.is_taken(instance)

    def commit(self, staged: Path, instance: Instance, record_at: int | None = None) -> bool:
        """Sync `staged`, a Part 10 file, and make it the instance; it is gone then.

        `record_at` is the offset of its `records.RECEIVED_ROOM`, None where it has none. When this returns,
        the caller may answer success. False: the same instance exists already and is still pending, so
        nothing is left to do; `staged` may remain.

        Raises:
            OSError: the instance is not safe; `staged` may remain.
        """
        return self._places.commit(staged, record_at, instance)

    def ids(self, shard: str) -> list[str]:
        """Ids of the instances in one shard; some may be gone."""
        return self._places.ids(shard)

    def namesakes(self, instance: str) -> list[str]:
        """Ids of all instances with the same SOP Instance UID as `instance`, including `instance`."""
        prefix = instance[: 2 * UID_BYTES]
        return [other for other in self.ids(instance[:2]) if other.startswith(prefix)]

    def is_alone(self, instance: str) -> bool:
        """Whether nothing is to be known of the instance but its record: no marker, no namesake."""
        return self._places.is_alone(instance)

    def read(self, instance: str) -> Instance | None:
        """The instance with that id, or None where it is not (or no longer) there, or cannot be read."""
        return self._places.read(instance)

    def damage(self, instance: str) -> str:
        """Why an instance that is there cannot be read, with its path; empty where it can, or is gone."""
        return self._places.damage(instance)

    def state(self, instance: str) -> State | None:
        """The instance and its markers, or None where it is not (or no longer) there, or cannot be read."""
        state = self._read_state(instance)
        if state and state.delivered and not (state.dead or state.pending):
            times = [(self.marker(instance, "delivered", n) or {}).get("at", 0.0) for n in state.delivered]
            state = replace(state, delivered_at=max(times))
        return state

    def _read_state(self, instance: str) -> State | None:
        """The state without `delivered_at`, for which each delivered marker has to be read."""
        names = self._places.markers(instance)
        found = self.read(instance)
        if found is None:
            return None
        return self._marked(found, names)

    def retire(self, instance: str) -> bool:
        """Remove an instance if all its deliveries are delivered; returns whether they are."""
        departed = self._departures.of(instance)
        for departure in departed:
            if self.bring_back(departure):
                return False
            reach("retirement.departed")
            self._departures.path(departure).unlink(missing_ok=True)
        if departed and not self.exists(instance):  # else the same object has come again
            if self._places.has_folder(instance):
                self._places.remove_rest(instance)
        else:
            state = self._read_state(instance)
            if state is None or set(state.destinations) - state.delivered:
                return False
            self._places.remove(instance)
        self.drop_renditions(instance)
        return True

    def depart(self, departure: Departure) -> bool:
        """Durably mark the last delivery of an instance, which leaves the spool with it.

        False: it has markers, so that it takes another one; or it is gone.
        """
        return self._places.depart(departure.instance, self._departures.path(departure))

    def departures(self) -> list[Departure]:
        """The instances that have left and are not removed yet."""
        return self._departures.all()

    def departed(self, departure: Departure) -> Instance | None:
        """The instance that has left; None where it is removed, or damaged."""
        return self._places.read_file(self._departures.path(departure))

    def bring_back(self, departure: Departure) -> bool:
        """Put an instance back that an order sent elsewhere while it left; returns whether one did."""
        names = self._places.markers(departure.instance)
        found = self.departed(departure) if names else None
        if found is None or self.exists(found.id):  # these are the markers of the same object, come again
            return False
        state = self._marked(found, names)
        if not set(state.destinations) - state.delivered - {departure.destination}:
            return False
        record = {"status": departure.status, "at": departure.at, "key": departure.key}
        path = self._places.folder(found.id) / f"delivered-{departure.destination}.json"
        durable.replace(path, json.dumps(record).encode())
        self._places.bring_back(found.id, self._departures.path(departure))
        return True

    def remove_rest(self, instance: str) -> None:
        """Remove what killed processes left of an instance that is gone."""
        if all(left.instance != instance for left in self._departures.all()):  # else it may come back
            self._places.remove_rest(instance)

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
        """Delete what belongs to no instance, and the trash; the dispatcher's first act."""
        for boot in self.renditions.iterdir():
            for folder in boot.iterdir():
                # A second worker may have made it while its instance was retired.
                if boot.name != boot_id() or not self.exists(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
            if boot.name != boot_id():
                shutil.rmtree(boot, ignore_errors=True)
        seats.sweep(self.seats)
        for trashed in self.trash.iterdir():
            durable.remove(trashed)
        for left in durable.leftover_temporaries(self._status):
            left.unlink(missing_ok=True)

    # Peers

    def learn(self, destination: str, accepted: dict[str, list[str]]) -> None:
        """Remember which transfer syntaxes a peer accepted, by SOP class."""
        record = {"schema": RECORD, "accepted": accepted, "seen_at": time.time()}
        durable.replace(self.destinations / f"{destination}.json", json.dumps(record).encode())

    def learned(self, destination: str) -> dict[str, list[str]]:
        """Which transfer syntaxes a peer accepted, by SOP class; empty where none are remembered."""
        try:
            record = json.loads((self.destinations / f"{destination}.json").read_bytes())
            accepted: dict[str, list[str]] = record["accepted"] if record["schema"] == RECORD else {}
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
