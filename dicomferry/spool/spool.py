"""The spool: where the truth is. Folders and files as docs/architecture.md names them.

Whoever writes here relies on `durable`: an instance exists from the rename of its folder on, and every
marker appears whole or not at all. Nothing from the network becomes a path part: ids are hashes, names of
destinations are checked by the settings, transfer syntaxes stand in the table.
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
TRANSCODING = "_transcode"  # what a worker's attempts are counted as: no destination can have that name
_REDIRECTED, _RENEWED = "redirected.json", "renewed.json"
RECEIVER_BYTES = 8  # of the name of a process that receives, in hexadecimal digits
_MOST_READ = 1 << 14  # bytes at once of a record; the longest that we write have a few hundred
_FIELDS = tuple(known.name for known in fields(Instance))
SHARDS = tuple(f"{number:02x}" for number in range(256))


@cache
def boot_id() -> str:
    """Names this boot of the machine: what was written unsynced under another one may be damaged."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


class Spool:
    """The folders of one spool, and every read and write of them."""

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
        """Make what is missing: every part calls this before it starts.

        Raises:
            Misconfigured: the spool cannot be made, or another version of dicomferry wrote it.
        """
        try:
            for folder in (
                self.incoming, self.receivers.folder, self.renditions, self.leases.folder,
                self.trash, self.quarantine, self.destinations, self.orders,
                *(self.instances / shard for shard in SHARDS),
            ):  # fmt: skip
                folder.mkdir(parents=True, exist_ok=True)
            (self.renditions / boot_id()).mkdir(exist_ok=True)
            durable.spread(self.renditions / boot_id())
            durable.spread(self.incoming)
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
        """Make the instance exist: `staging` holds received.dcm, whose content this puts on disk.

        When it returns, success may be answered. False: the same instance exists already and is still
        pending, so that nothing is left to do; `staging` is gone then too.

        Raises:
            OSError: it is not safe; `staging` may remain and is swept later.
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
            # Whoever renamed it may not have synced the shard yet, and we are about to answer success too.
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
        """Ids of all instances with the SOP Instance UID of that id, itself among them."""
        prefix = instance[: 2 * UID_BYTES]
        return [other for other in self.ids(instance[:2]) if other.startswith(prefix)]

    def read(self, instance: str) -> Instance | None:
        """The instance with that id, or None where it is not (or no longer) there."""
        try:
            content: dict[str, Any] = json.loads(_content(self.folder(instance) / "instance.json"))
        except FileNotFoundError:
            return None
        if content.pop("schema") != SCHEMA:
            raise Misconfigured(f"instance {instance} was written by another version of dicomferry")
        content["destinations"] = tuple(content["destinations"])
        return Instance(**content)

    def state(self, instance: str) -> State | None:
        """The instance and its markers, or None where it is not (or no longer) there."""
        state = self._marked(instance)
        if state and state.delivered and not (state.dead or state.pending):
            times = [(self.marker(instance, "delivered", n) or {}).get("at", 0.0) for n in state.delivered]
            state = replace(state, delivered_at=max(times))
        return state

    def _marked(self, instance: str) -> State | None:
        """What `state` says, but for the content of delivered markers."""
        found = self.read(instance)
        if found is None:
            return None
        try:
            names = os.listdir(self.folder(instance))
        except FileNotFoundError:
            return None
        redirected, redirected_at = self._redirected(instance) if _REDIRECTED in names else (None, 0.0)
        renewed_at = self._renewed(instance) if _RENEWED in names else 0.0
        delivered = frozenset(_middle(name, "delivered-", ".json") for name in names) - {""}
        dead = frozenset(_middle(name, "dead-", ".json") for name in names) - {""} - delivered
        if redirected is not None:
            dead &= frozenset(redirected)
        attempts = {
            what: self.attempts(instance, what) for name in names if (what := _middle(name, "attempts-", ""))
        }
        return State(found, delivered, dead, attempts, redirected, renewed_at=max(redirected_at, renewed_at))

    def redirect(self, instance: str, destinations: tuple[str, ...], why: str) -> None:
        """Give an instance other destinations, durably, in place of those that it was received for."""
        record = {"schema": SCHEMA, "destinations": destinations, "why": why, "at": time.time()}
        durable.replace(self.folder(instance) / _REDIRECTED, json.dumps(record).encode())

    def _redirected(self, instance: str) -> tuple[tuple[str, ...] | None, float]:
        try:
            record = json.loads((self.folder(instance) / _REDIRECTED).read_bytes())
        except FileNotFoundError:
            return None, 0.0
        return tuple(record["destinations"]), record["at"]

    def renew(self, instance: str) -> None:
        """Note, durably, that an operator wants it delivered: its age counts from now on."""
        durable.replace(self.folder(instance) / _RENEWED, json.dumps({"at": time.time()}).encode())

    def _renewed(self, instance: str) -> float:
        try:
            at: float = json.loads((self.folder(instance) / _RENEWED).read_bytes())["at"]
        except FileNotFoundError:
            return 0.0
        return at

    def mark_delivered(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Note, durably, that `destination` has the instance. It wins over a dead marker."""
        durable.replace(self.folder(instance) / f"delivered-{destination}.json", json.dumps(record).encode())

    def mark_dead(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Park a delivery, durably, with its reason."""
        durable.replace(self.folder(instance) / f"dead-{destination}.json", json.dumps(record).encode())

    def marker(self, instance: str, kind: str, destination: str) -> dict[str, Any] | None:
        """What a marker (`kind` "delivered" or "dead") says, or None where there is none."""
        try:
            content: dict[str, Any] = json.loads(
                _content(self.folder(instance) / f"{kind}-{destination}.json")
            )
        except FileNotFoundError:
            return None
        return content

    def unmark(self, instance: str, kind: str, destination: str) -> None:
        """Take a marker (`kind` "delivered" or "dead") away, durably: the delivery is pending again."""
        path = self.folder(instance) / f"{kind}-{destination}.json"
        with suppress(FileNotFoundError):
            path.unlink()
            durable.sync_folder(path.parent)

    def is_delivered(self, instance: str, destination: str) -> bool:
        """Whether the delivered marker stands."""
        return (self.folder(instance) / f"delivered-{destination}.json").exists()

    def add_attempt(self, instance: str, what: str) -> int:
        """Count an attempt, durably, before it is made; the number of attempts including this one."""
        path = self.folder(instance) / f"attempts-{what}"
        with path.open("ab") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def clear_attempts(self, instance: str, what: str) -> None:
        """Forget the attempts: what was attempted has returned."""
        (self.folder(instance) / f"attempts-{what}").unlink(missing_ok=True)

    def attempts(self, instance: str, what: str) -> int:
        """How many attempts are on record."""
        try:
            return (self.folder(instance) / f"attempts-{what}").stat().st_size
        except FileNotFoundError:
            return 0

    def retire(self, instance: str) -> bool:
        """Remove an instance whose every delivery is delivered; False, and nothing done, otherwise."""
        state = self._marked(instance)
        if state is None or set(state.destinations) - state.delivered:
            return False
        grave = self.trash / f"{instance}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            reach("retirement.begun")
            self.folder(instance).rename(grave)
            reach("retirement.renamed")
            durable.remove(grave)
        self.drop_renditions(instance)
        return True

    def drop_renditions(self, instance: str) -> None:
        """Delete the renditions of an instance that nobody waits for; they can be made again."""
        durable.remove(self.renditions / boot_id() / instance)

    # Renditions

    def rendition(self, boot: str, instance: str, key: str) -> Path:
        """Where the rendition `key` (a `RenditionSpec.key`) of an instance stands, if it was made."""
        return Path(f"{self.renditions}/{boot}/{instance}/{key}.dcm")

    def rendition_records(self, instance: str) -> list[dict[str, Any]]:
        """The records of the renditions that stand, each with its "key", in the order of their keys."""
        found = []
        for path in sorted((self.renditions / boot_id() / instance).glob("*.dcm")):
            with suppress(OSError):
                if kept := records.read(path):
                    found.append({"key": path.stem} | kept)
        return found

    def sweep(self) -> None:
        """Drop another boot's renditions, those of no instance, and the trash; the dispatcher's first act."""
        for boot in self.renditions.iterdir():
            for folder in boot.iterdir():
                # One whose instance was retired while a second worker made it.
                if boot.name != boot_id() or not self.folder(folder.name).exists():
                    shutil.rmtree(folder, ignore_errors=True)
            if boot.name != boot_id():
                shutil.rmtree(boot, ignore_errors=True)
        for grave in self.trash.iterdir():
            durable.remove(grave)
        for left in durable.left_unpublished(self._status):
            left.unlink(missing_ok=True)

    # Peers

    def learn(self, destination: str, accepted: dict[str, list[str]]) -> None:
        """Remember which transfer syntaxes a peer accepted, by SOP class."""
        record = {"schema": SCHEMA, "accepted": accepted, "seen_at": time.time()}
        durable.replace(self.destinations / f"{destination}.json", json.dumps(record).encode())

    def learned(self, destination: str) -> dict[str, list[str]]:
        """What `learn` was last told; empty where nothing was."""
        try:
            record = json.loads((self.destinations / f"{destination}.json").read_bytes())
            accepted: dict[str, list[str]] = record["accepted"] if record["schema"] == SCHEMA else {}
        except (FileNotFoundError, ValueError, KeyError):
            return {}
        return accepted

    # What the dispatcher shows

    def write_status(self, status: dict[str, Any]) -> None:
        """Show the state of all lanes to whoever asks; a snapshot, never the truth, so it is not synced."""
        temporary = durable.unpublished(self._status)
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
        """Drop the last snapshot: whoever waits for the next one is not to take it for that."""
        self._status.unlink(missing_ok=True)


def _dump(instance: Instance) -> bytes:
    # Not asdict, which copies deeply.
    return json.dumps({"schema": SCHEMA} | {name: getattr(instance, name) for name in _FIELDS}).encode()


def _content(path: Path) -> bytes:
    """The content of a small file in three system calls, where `Path.read_bytes` takes nine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _MOST_READ)
    finally:
        os.close(descriptor)
    return content if len(content) < _MOST_READ else path.read_bytes()


def _middle(name: str, prefix: str, suffix: str) -> str:
    return (
        name[len(prefix) : len(name) - len(suffix)]
        if name.startswith(prefix) and name.endswith(suffix)
        else ""
    )
