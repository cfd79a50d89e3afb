"""Transcodes files and folders without any service.

This module lists the jobs and does one; `parallel` does many at once. Originals are only read; outputs appear
by rename.
"""

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import syntaxes
from dicomferry.dicom.part10 import Meta
from dicomferry.errors import FerryError, Misconfigured, Permanent, location_of
from dicomferry.spool import durable
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.seats import Seats
from dicomferry.text import shown
from workers import limits
from workers.dataset.received import is_as_stated
from workers.dataset.unlabelled import find_meta, is_dicom

# PS3.4 annex B has no such storage class: a DICOMDIR (PS3.10 8.6) describes the files beside it.
_DIRECTORY = "1.2.840.10008.1.3.10"
# Recompressed JPEG: made of a JPEG alone, which can be restored from it.
_RECOMPRESSED = "1.2.840.10008.1.2.4.111"
_PIXELLESS = "no pixel data: left in its transfer syntax"
# The setting of lossy targets, by group.
_SETTING = {
    "jpeg": "quality",
    "jpeg-xl": "quality",
    "jpeg2000": "ratio",
    "htj2k": "ratio",
    "jpeg-ls": "near",
}


@dataclass(frozen=True, slots=True)
class Lossy:
    """Parameters of lossy encoders; None is the encoder's default. `asked` allows loss at all."""

    asked: bool = False
    quality: int | None = None
    ratio: float | None = None
    near: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What to make of each file."""

    specs: tuple[RenditionSpec, ...]  # the first that can hold the instance is used
    keep: frozenset[str]  # files in these transfer syntaxes are copied unchanged
    verify: str = "always"
    overwrite: bool = False
    ceilings: Ceilings = Ceilings()
    seats: Seats | None = None  # one for each file under way; helpers take those that are free


@dataclass(frozen=True, slots=True)
class Job:
    """One file."""

    source: Path
    target: Path
    size: int
    named: bool  # by the user, not found in a folder: if it is no DICOM file, that is a failure


class Kind(Enum):
    """What became of a file."""

    MADE = "transcoded"
    COPIED = "passed through unchanged"
    PRESENT = "made before"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file, and why; `words` have no patient data."""

    job: Job
    kind: Kind
    words: str = ""
    written: int = 0  # bytes


def order(
    to: str,
    lossy: Lossy,
    *,
    colour: str = "rgb",
    verify: str = "always",
    overwrite: bool = False,
    ceilings: Ceilings = Ceilings(),
) -> Order:
    """The order for the transfer syntax `to`: a keyword, a UID or a group.

    Raises:
        Misconfigured: it is unknown, cannot be made, or contradicts `lossy`; the message says what to do.
    """
    asked = syntaxes.resolve([to])
    made = [syntaxes.BY_UID[uid] for uid in asked if syntaxes.BY_UID[uid].encoded]
    if not made:
        raise Misconfigured(f"{to} can be passed through, but not made: {_choices()}")
    loses = lossy.asked or any(value is not None for value in (lossy.quality, lossy.ratio, lossy.near))
    # Recompression first: it keeps a JPEG bit for bit, and refuses anything else at once.
    chosen = [s for s in made if not loses and s.uid == _RECOMPRESSED]
    chosen += [s for s in made if s.lossless is not loses and s.uid != _RECOMPRESSED]
    if not chosen and loses:
        raise Misconfigured(f"{to} loses nothing: leave --lossy, --quality, --ratio and --near out")
    if not chosen:
        setting = _SETTING.get(made[0].group, "lossy")
        raise Misconfigured(
            f"{to} is lossy, and nothing is lost unasked: add --lossy (or --{setting}), "
            "or choose a lossless syntax"
        )
    for setting in ("quality", "ratio", "near"):
        if getattr(lossy, setting) is not None and all(_SETTING.get(s.group) != setting for s in chosen):
            right = _SETTING.get(chosen[0].group)
            raise Misconfigured(f"{to} does not take --{setting}; it takes --{right}")
    return Order(
        specs=tuple(_spec(syntax, lossy, colour) for syntax in chosen),
        keep=frozenset(syntax.uid for syntax in chosen) if loses else frozenset(asked),
        verify=verify,
        overwrite=overwrite,
        ceilings=ceilings,
    )


def _choices() -> str:
    groups = dict.fromkeys(syntax.group for syntax in syntaxes.TABLE if syntax.encoded)
    return f"choose one of {', '.join(groups)}, or a keyword or UID of them"


def _spec(syntax: syntaxes.Syntax, lossy: Lossy, colour: str) -> RenditionSpec:
    if syntax.native:
        return RenditionSpec(syntax.uid, colour)
    setting = None if syntax.lossless else _SETTING.get(syntax.group)
    return RenditionSpec(
        syntax.uid,
        "as-encoded",
        quality=(lossy.quality or 90) if setting == "quality" else None,
        ratio=(lossy.ratio or 10.0) if setting == "ratio" else None,
        near=(lossy.near or 2) if setting == "near" else None,
    )


def jobs(inputs: Sequence[Path], out: Path) -> list[Job]:
    """The files in `inputs` (files and folders), each with its target at or under `out`.

    The content of a single folder goes directly under `out`, of several under their names. A subfolder that
    cannot be listed is a job too, which fails.

    Raises:
        Misconfigured: an input is missing or cannot be reached, or an output would replace an original, a
            device or another output.
    """
    try:
        return _jobs(inputs, out)
    except OSError as error:
        raise Misconfigured(shown(f"{error.filename}: {error.strerror}")) from error
    except Misconfigured as error:
        raise Misconfigured(shown(str(error))) from error  # it names files


def _jobs(inputs: Sequence[Path], out: Path) -> list[Job]:
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise Misconfigured(f"{out} is neither a file nor a folder: the rename would replace it")
    for path in inputs:
        if not (path.is_file() or path.is_dir()):
            raise Misconfigured(f"{path}: no such file or folder")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise Misconfigured(
                f"{out} is inside {path}: choose a folder outside of it, originals stay whole"
            )
    if len(inputs) == 1 and not inputs[0].is_dir() and not out.is_dir():
        found = [_job(inputs[0], out, named=True)]
    else:
        if out.exists() and not out.is_dir():
            raise Misconfigured(f"{out} is a file: several files need a folder")
        found = [job for path in inputs for job in _jobs_in(path, out, alone=len(inputs) == 1)]
    _check_targets(found)
    return found


def _jobs_in(path: Path, out: Path, *, alone: bool) -> Iterator[Job]:
    if not path.is_dir():
        yield _job(path, out / path.name, named=True)
        return
    root = out if alone else out / path.resolve().name
    unlisted: list[OSError] = []
    for folder, names, files in os.walk(path, onerror=unlisted.append):
        names.sort()
        for name in sorted(files):
            source = Path(folder, name)
            if source.is_file():
                yield _job(source, root / source.relative_to(path), named=False)
    for source in (Path(error.filename) for error in unlisted):
        yield _job(source, root / source.relative_to(path), named=False)


def _job(source: Path, target: Path, *, named: bool) -> Job:
    return Job(source, target, source.stat().st_size, named)


def _check_targets(found: Iterable[Job]) -> None:
    targets: dict[Path, Path] = {}
    originals = {job.source.resolve() for job in found}
    for job in found:
        target = job.target.parent.resolve() / job.target.name
        if target.resolve() in originals or target in originals:
            raise Misconfigured(f"{job.target} is an original: choose another place for what is made")
        if (other := targets.setdefault(target, job.source)) is not job.source:
            raise Misconfigured(f"{other} and {job.source} would both become {job.target}")


def convert(job: Job, order: Order) -> Outcome:
    """Do one job. Errors become its outcome, except that a codec that hangs kills this process."""
    seated = order.seats.seated() if order.seats else nullcontext()
    try:
        with seated, limits.deadline(limits.seconds_for(job.size)):
            return _convert(job, order)
    except FerryError as error:
        return Outcome(job, Kind.FAILED, str(error))
    except MemoryError:
        return Outcome(job, Kind.FAILED, order.ceilings.refusal("it needs more memory, in MB", "memory_mb"))
    except OSError as error:
        return Outcome(job, Kind.FAILED, error.strerror or type(error).__name__)
    except Exception as error:  # noqa: BLE001  one file must not end the run
        # The error's text may quote values of the data set.
        return Outcome(job, Kind.FAILED, f"unexpected {type(error).__name__} at {location_of(error)}")


def _convert(job: Job, order: Order) -> Outcome:
    if not is_dicom(job.source):
        return Outcome(job, _without_instance(job), "no DICOM file")
    meta, unsaid = find_meta(job.source)
    if meta.sop_class_uid == _DIRECTORY:
        return Outcome(job, _without_instance(job), "a DICOMDIR: it describes other files as they were")
    if job.target.exists() and not order.overwrite:
        return _existing(job, order, made_of=meta.transfer_syntax_uid if unsaid else None)
    if meta.transfer_syntax_uid in order.keep and is_as_stated(job.source, meta):
        return _left(job, meta, order.ceilings, whole=not unsaid)
    # The parent process only distributes work and needs no codecs.
    from dicomferry.errors import NoPixelData, Unsuitable  # noqa: PLC0415
    from workers.transcode import transcode  # noqa: PLC0415

    refusals = []
    for spec in order.specs:
        try:
            report = transcode(
                job.source,
                job.target,
                spec,
                verify=order.verify,
                ceilings=order.ceilings,
                seats=order.seats,
            )
        except NoPixelData:
            if job.named:
                raise
            # A report among the images of a study.
            return _left(job, meta, order.ceilings, whole=not unsaid, note=_PIXELLESS)
        except Unsuitable as error:
            refusals.append(str(error))
        else:
            return Outcome(job, Kind.MADE, report.notes, job.target.stat().st_size)
    raise Permanent("; ".join(refusals))


def _without_instance(job: Job) -> Kind:
    return Kind.FAILED if job.named else Kind.SKIPPED


def _left(job: Job, meta: Meta, ceilings: Ceilings, *, whole: bool, note: str = "") -> Outcome:
    """Leave the instance in its transfer syntax: a whole file as it is, others with the header they lack."""
    if whole or not syntaxes.BY_UID[meta.transfer_syntax_uid].encoded:
        _copy(job.source, job.target)
        return Outcome(job, Kind.COPIED, note, job.size)
    from workers.transcode import transcode  # noqa: PLC0415

    report = transcode(job.source, job.target, RenditionSpec(meta.transfer_syntax_uid), ceilings=ceilings)
    words = "; ".join(text for text in (report.notes, note) if text)
    return Outcome(job, Kind.MADE, words, job.target.stat().st_size)


def _existing(job: Job, order: Order, made_of: str | None) -> Outcome:
    """The outcome if the output exists: in a folder, what an earlier run made is not made again.

    `made_of` is the syntax of a file that got a header without being transcoded, if there was one.
    """
    syntax = find_meta(job.target)[0].transfer_syntax_uid
    made = syntax in {spec.transfer_syntax_uid for spec in order.specs} | order.keep | {made_of}
    if not job.named and (made or filecmp.cmp(job.source, job.target, shallow=False)):
        what = syntaxes.label(syntax) if made else "the same as the original"
        return Outcome(job, Kind.PRESENT, f"the output exists and is {what}: --overwrite makes it again")
    raise Permanent(f"{job.target} exists already: --overwrite replaces it")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = durable.temporary_path(target)
    try:
        shutil.copyfile(source, temporary)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
