"""One damaged file through the engine: what a child of the corruption tests does."""

import hashlib
import shutil
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.damage import Damage, damaged
from workers.transcode import transcode


@dataclass(frozen=True)
class Case:
    number: int
    seed: int
    source: Path
    uid: str  # of the source's syntax
    target: str
    sound: str  # digest of the undamaged source's rendition

    @property
    def damage(self) -> Damage:
        random = np.random.default_rng((self.seed, self.number))
        return damaged(self.source.read_bytes(), self.uid, random)


@dataclass(frozen=True)
class Answer:
    outcome: str  # refused, unharmed (the rendition is as if nothing had been), made, unexpected
    text: str = ""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(case: Case) -> Answer:
    folder = Path(tempfile.mkdtemp(dir=case.source.parent))
    try:
        source, target = folder / "in.dcm", folder / "out.dcm"
        source.write_bytes(case.damage.content)
        return _outcome(case, source, target)
    finally:
        shutil.rmtree(folder)


def _outcome(case: Case, source: Path, target: Path) -> Answer:
    try:
        transcode(source, target, RenditionSpec(case.target))
    except Permanent as refusal:
        left = [path.name for path in target.parent.iterdir() if path != source]
        return Answer("unexpected", f"left {left}") if left else Answer("refused", str(refusal))
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return Answer("unexpected", f"{type(error).__name__}: {error} {traceback.format_exc(limit=-3)}")
    return Answer("unharmed" if digest(target) == case.sound else "made")
