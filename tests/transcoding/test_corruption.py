"""Damaged files, 2,000 of them from a fixed seed, over every syntax that is decoded.

What ends early or breaks the format must end in a `Permanent` whose text tells nothing of the patient, or do
no harm at all: the rendition is then, byte for byte, that of the sound file. A flipped bit that leaves a
legal stream may pass. Nothing else may leave `transcode`, no case may hang, and what a codec crashes dies
alone, in a child, and is named here. `KNOWN_GAPS` says what is not noticed, and why.
"""

import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, TABLE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import corruption
from tests.support.images.conformant import top_level
from tests.support.images.corruption import Answer, Case
from tests.support.images.damage import Damage
from tests.support.images.gallery import SECRET
from tests.support.images.independent import RLE
from tests.support.images.sources import kinds, maker
from tests.support.running.containment import Ended, run_all
from workers.transcode import transcode

SEED = 20261122
CASES = 2000
DEADLINE = 20.0  # seconds for one case; the slowest takes 0.1 on an idle machine
SERIES, FIRST_OF_PIXELS, PIXEL_DATA = (0x0020, 0x000E), (0x0028, 0x0002), (0x7FE0, 0x0010)
ENCODED = {s.uid for s in TABLE if s.encoded and not s.native}


def target_of(number: int, uid: str) -> str:
    """Native mostly; each third case RLE, the cheapest encoder, which looks into native pixels."""
    if number % 3 == 0 and RLE in ENCODED and uid != RLE:
        return RLE
    return IMPLICIT_LE if uid == EXPLICIT_LE else EXPLICIT_LE


def cut_where_nothing_is_missing(case: Case, damage: Damage) -> bool:
    """The data set ends where an element ends, and what the standard wants behind it may be left out.

    Either it names its series already and describes no pixels yet, as one whose pixels were taken away; or
    the pixels are there, and only what stands behind them is not.
    """
    if damage.kind != "truncated" or case.uid == DEFLATED_LE:
        return False
    sound, end = case.source.read_bytes(), len(damage.content)
    return end in top_level(sound) and harmless(sound, case.uid, end)


def harmless(sound: bytes, uid: str, end: int) -> bool:
    """Whether `sound` may end at `end`, one of its seams."""
    order = ">" if uid == EXPLICIT_BE else "<"
    tags = [struct.unpack_from(order + "HH", sound, at) for at in top_level(sound) if at < end]
    return SERIES in tags and (tags[-1] < FIRST_OF_PIXELS or tags[-1] >= PIXEL_DATA)


def hole_that_the_huffman_code_survives(case: Case, damage: Damage) -> bool:
    """Out of step, the decoder took fewer bits for what follows than were lost: the data do not end early.

    That some are left over is no damage: encoders fill up before EOI.
    """
    del case
    return damage.what.startswith("a hole in a scan")


KNOWN_GAPS = (cut_where_nothing_is_missing, hole_that_the_huffman_code_survives)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Case, Damage, Ended]]:
    folder = tmp_path_factory.mktemp("corruption")
    make = maker(folder)
    sources = [(syntax.uid, name) for syntax in TABLE if syntax.decoded for name in kinds(syntax.uid)]
    sound: dict[tuple[Path, str], str] = {}
    cases = []
    for number in range(CASES):
        uid, name = sources[number % len(sources)]
        source, target = make(name, uid), target_of(number // len(sources), uid)
        if (source, target) not in sound:
            transcode(source, folder / "sound.dcm", RenditionSpec(target))
            sound[source, target] = corruption.digest(folder / "sound.dcm")
        cases.append(Case(number, SEED, source, uid, target, sound[source, target]))
    results = run_all(cases, corruption.run, deadline=DEADLINE)
    return [(case, case.damage, result) for case, result in zip(cases, results, strict=True)]


def told(case: Case, damage: Damage, result: Ended) -> str:
    answer = result.answer or Answer(f"crashed: {result.crashed}" if result.crashed else "hung")
    return (
        f"case {case.number}: {case.source.name} to {BY_UID[case.target].label}, {damage.what}: "
        f"{answer.outcome} {answer.text}"
    )


def test_no_case_hangs_and_no_codec_crashes(ended: list) -> None:
    assert len(ended) == CASES
    assert [told(*one) for one in ended if one[2].hung or one[2].crashed] == []


def test_nothing_but_a_clear_refusal_leaves_the_engine(ended: list) -> None:
    unexpected = [told(*one) for one in ended if one[2].answer and one[2].answer.outcome == "unexpected"]
    assert unexpected == []


def test_no_refusal_tells_of_the_patient(ended: list) -> None:
    refusals = [one for one in ended if one[2].answer and one[2].answer.outcome == "refused"]
    assert len(refusals) > CASES // 2
    words = SECRET.split("^")
    assert [told(*one) for one in refusals if any(word in one[2].answer.text for word in words)] == []
    assert all(one[2].answer.text for one in refusals)


def test_truncation_and_structural_damage_are_refused_or_do_no_harm(ended: list) -> None:
    made = [
        one for one in ended
        if one[1].kind != "flipped" and one[2].answer and one[2].answer.outcome == "made"
    ]  # fmt: skip
    gaps = Counter(
        (gap.__name__, BY_UID[case.uid].label)
        for case, damage, _ in made
        for gap in KNOWN_GAPS
        if gap(case, damage)
    )
    print("not noticed:", *sorted(gaps.items()), sep="\n  ")
    unknown = [told(*one) for one in made if not any(gap(*one[:2]) for gap in KNOWN_GAPS)]
    assert unknown == []


def test_every_syntax_and_every_kind_of_damage_is_tried(ended: list) -> None:
    tried = Counter((case.uid, damage.kind) for case, damage, _ in ended)
    for syntax in TABLE:
        if syntax.decoded:
            expected = ["truncated", "flipped"] + (["structural"] if syntax.uid != DEFLATED_LE else [])
            assert all(tried[syntax.uid, kind] >= 10 for kind in expected), (syntax.label, tried)


@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
def test_the_seams_between_elements_are_where_we_think(uid: str, tmp_path: Path) -> None:
    content = maker(tmp_path)("grey8", uid).read_bytes()
    seams = top_level(content)
    source = maker(tmp_path)("grey8", uid)
    assert seams[0] == dataset_offset(source)
    assert seams[-1] == len(content)
    assert len(seams) > 30


@pytest.mark.parametrize("uid", [s.uid for s in TABLE if s.decoded and s.uid != DEFLATED_LE])
def test_a_cut_between_two_elements_is_noticed_wherever_it_takes_something_away(
    uid: str, tmp_path: Path
) -> None:
    source = maker(tmp_path)(kinds(uid)[0], uid)
    content = source.read_bytes()
    seams = top_level(content)[:-1]
    silent, cut = [], tmp_path / "cut.dcm"
    for end in seams:
        cut.write_bytes(content[:end])
        with suppress(Permanent):
            transcode(cut, tmp_path / "out.dcm", RenditionSpec(target_of(1, uid)))
            silent.append(end)
    assert silent == [end for end in seams if harmless(content, uid, end)]
    assert len(silent) < len(seams) // 2
