"""Where an instance stands, in either of two layouts; nothing else knows of them.

A file ``ab/<id>.dcm``, whose File Meta Information holds the instance's record. Its markers are in the folder
``ab/<id>``, which is made for the first of them. While either stands the id is given to no other object.

A folder ``ab/<id>`` with ``received.dcm``, ``instance.json`` and the markers: so schema 1 wrote them all, and
we do where a record is longer than its room.
"""

import errno
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from dicomferry.crashpoints import reach
from dicomferry.spool import durable, records
from dicomferry.spool.instance import UID_BYTES, Instance, is_id

RECORD = 1  # version of what records and markers hold
_SUFFIX, _RECEIVED, _RECORD_FILE = ".dcm", "received.dcm", "instance.json"
# What is delivered everywhere first joins its markers under this name, and then leaves together with them.
# Else the same object, if it comes again meanwhile, would meet them, and be taken for delivered.
_ENDED = "ended.dcm"
# What says nothing of the file that could not be opened.
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_SMALL = 1 << 14  # bytes; more than any record that we write


class Places:
    """The instances of one spool, in 256 shards."""

    def __init__(self, root: Path, trash: Path) -> None:
        self._root, self._trash = root, trash

    def folder(self, instance: str) -> Path:
        """The folder of its markers, which may not exist."""
        return Path(self._folder(instance))

    # Strings, since a Path costs more than the call that it is made for.

    def _folder(self, instance: str) -> str:
        return f"{self._root}/{instance[:2]}/{instance}"

    def _file(self, instance: str) -> str:
        return self._folder(instance) + _SUFFIX

    def _shard(self, instance: str) -> str:
        return f"{self._root}/{instance[:2]}"

    def has_folder(self, instance: str) -> bool:
        """Whether it has markers, or may have."""
        return _is_there(self._folder(instance))

    def received(self, instance: str) -> Path:
        """The file as received: Part 10, data set bytes exactly as the peer sent them."""
        file, earlier = self._file(instance), f"{self._folder(instance)}/{_RECEIVED}"
        return Path(earlier if not _is_there(file) and _is_there(earlier) else file)

    def exists(self, instance: str) -> bool:
        """Whether the instance is on the spool."""
        return _is_there(self._file(instance)) or _is_there(f"{self._folder(instance)}/{_RECORD_FILE}")

    def is_taken(self, instance: str) -> bool:
        """Whether no other object may have that id: it is on the spool, or markers of it are."""
        return _is_there(self._file(instance)) or _is_there(self._folder(instance))

    def ids(self, shard: str) -> list[str]:
        """Ids of what stands in one shard; of some there may be markers alone."""
        names = (name.removesuffix(_SUFFIX) for name in os.listdir(f"{self._root}/{shard}"))
        return [name for name in dict.fromkeys(names) if is_id(name)]

    def is_alone(self, instance: str) -> bool:
        """Whether the instance is one file without markers, and no other has its SOP Instance UID."""
        prefix, file = instance[: 2 * UID_BYTES], f"{instance}{_SUFFIX}"
        found = {name for name in os.listdir(self._shard(instance)) if name.startswith(prefix)}
        return found == {file} or (found == {file, instance} and not self.markers(instance))

    def read(self, instance: str) -> Instance | None:
        """The instance with that id, or None where it is not (or no longer) there, or cannot be read."""
        found = self._look_at(instance)
        return found if isinstance(found, Instance) else None

    def damage(self, instance: str) -> str:
        """Why an instance that is there cannot be read, with its path; empty where it can, or is gone."""
        found = self._look_at(instance)
        if not isinstance(found, str):
            return ""
        path = self._file(instance)
        return f"{path if _is_there(path) else self._folder(instance)}: {found}"

    def _look_at(self, instance: str) -> Instance | str | None:
        """The instance, or what is wrong with it, or None where it is gone."""
        try:
            try:
                found = records.read(self._file(instance))
            except FileNotFoundError:
                folder = self.folder(instance)
                found = json.loads(read_small(folder / _RECORD_FILE))
                if not (folder / _RECEIVED).exists():
                    return f"{_RECEIVED} is missing"
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        except OSError as error:
            if error.errno in _OURS:
                raise
            return error.strerror or str(error)
        return _instance(found, instance)

    def markers(self, instance: str) -> list[str]:
        """Names of its markers; ask before `read`, so that none is missed of what is removed meanwhile."""
        try:
            names = os.listdir(self._folder(instance))
        except FileNotFoundError:
            return []
        return [] if _ENDED in names else names

    def make_folder(self, instance: str) -> Path:
        """The folder for a marker, which is made where it is missing.

        Raises:
            FileNotFoundError: the instance is gone.
        """
        folder = self.folder(instance)
        if (folder / _ENDED).exists():  # of the same object, which came before
            self._throw_away(folder)
        if not folder.exists():
            if not _is_there(self._file(instance)):
                raise FileNotFoundError(errno.ENOENT, "the instance is gone", instance)
            folder.mkdir(exist_ok=True)
            durable.sync_folder(folder.parent)
        return folder

    def commit(self, staged: Path, record_at: int | None, instance: Instance) -> bool:
        """Make `staged`, a Part 10 file, the instance; False where there is one with that id.

        `record_at` is the offset of its `records.RECEIVED_ROOM`, None where it has none.
        """
        record = {"schema": RECORD} | instance.to_record()
        fitted = records.fitted(record) if record_at is not None else None
        reach("reception.written")
        if fitted is None or record_at is None:
            return self._commit_folder(staged, record, instance)
        durable.write_within(staged, record_at, fitted)
        reach("reception.file-synced")
        if len(instance.destinations) > 1:  # there will be markers: one sync for both names
            self.folder(instance.id).mkdir(exist_ok=True)
        new = durable.rename_new(staged, self._file(instance.id))
        reach("reception.renamed")
        # Also where it is not new: whoever renamed it may not have got so far, and we answer success too.
        durable.sync_folder(self._shard(instance.id))
        reach("reception.shard-synced")
        return new

    def _commit_folder(self, staged: Path, record: dict[str, Any], instance: Instance) -> bool:
        durable.sync_file(staged)
        folder = durable.enfold(staged, _RECEIVED)
        final = self.folder(instance.id)
        try:
            durable.write_synced(folder / _RECORD_FILE, json.dumps(record).encode())
            durable.sync_folder(folder)
            folder.rename(final)
        except OSError:
            if not self.exists(instance.id):
                raise
            return False
        finally:
            durable.remove(folder)
            durable.sync_folder(final.parent)
        return True

    def depart(self, instance: str, to: Path) -> bool:
        """Durably move an instance to `to`, out of its place; False where it has markers, or is gone."""
        if self.has_folder(instance):
            return False
        try:
            os.rename(self._file(instance), to)  # noqa: PTH104
        except FileNotFoundError:
            return False
        reach("delivery.departed")
        durable.sync_folder(
            self._shard(instance)
        )  # else it may be back after a power cut, and follow a newer one
        return True

    def bring_back(self, instance: str, departed: Path) -> None:
        """Durably undo `depart`."""
        if not durable.rename_new(departed, self._file(instance)):  # the same object has come again
            departed.unlink()
        durable.sync_folder(self._shard(instance))

    def read_file(self, path: Path) -> Instance | None:
        """The instance in a file; None where it is gone, or cannot be read."""
        try:
            found = _instance(records.read(path))
        except FileNotFoundError:
            return None
        return found if isinstance(found, Instance) else None

    def remove(self, instance: str) -> None:
        """Remove an instance and its markers."""
        folder = self.folder(instance)
        reach("retirement.begun")
        if not self.has_folder(instance):
            Path(self._file(instance)).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            os.rename(self._file(instance), folder / _ENDED)  # noqa: PTH104
            reach("retirement.joined")
        self._throw_away(folder)

    def _throw_away(self, folder: Path) -> None:
        if not is_id(folder.name):  # the shards' folder, say
            raise ValueError(f"{folder} is no instance's")
        trashed = self._trash / f"{folder.name}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            folder.rename(trashed)
            reach("retirement.renamed")
            durable.remove(trashed)

    def remove_rest(self, instance: str) -> None:
        """Remove the markers of an instance that is gone: a killed process left them."""
        if not self.exists(instance):
            self._throw_away(self.folder(instance))


def _instance(record: Any, name: str = "") -> Instance | str:
    """The instance that a record tells of, or what is wrong with it; `name` is the id that it must have."""
    if not isinstance(record, dict):
        return "its record is damaged"
    if record.pop("schema", None) != RECORD:
        return "another version of dicomferry wrote its record"
    try:
        found = Instance.from_record(record)
    except (KeyError, TypeError):
        return "its record is damaged"
    return found if not name or found.id == name else f"its record is that of {found.id}"


def _is_there(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def read_small(path: Path) -> bytes:
    """The content of a small file, in three system calls; `Path.read_bytes` takes nine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _SMALL)
    finally:
        os.close(descriptor)
    return content if len(content) < _SMALL else path.read_bytes()
