"""`dicomferry transcode` as people and scripts meet it: real processes, real files, and what goes wrong."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from tests.support.images.files import gdcm_pixels, native_pixels, shipped, syntax_of, uid_of
from tests.support.running.processes import DICOMFERRY

COMPRESSED = (
    "693_J2KI.dcm", "examples_jpeg2k.dcm", "JPGExtended.dcm", "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm", "image_dfl.dcm",
    "MR_small_bigendian.dcm",
)  # fmt: skip
# A truncated file, a header that lies, and File Meta Information without a syntax.
DAMAGED = ("JPEG2000-embedded-sequence-delimiter.dcm", "meta_missing_tsyntax.dcm", "rtplan_truncated.dcm")
DICOMDIR = "dicomdirtests/DICOMDIR"


def command(*words: object) -> list[str]:
    return [*DICOMFERRY, "transcode", *map(str, words)]


def transcode(*words: object, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*words), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def digests(root: Path) -> dict[str, str]:
    """Of every file under `root`, by its path from there."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def copied(names: tuple[str, ...], root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(shipped(name).read_bytes())
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tree as it comes off a disc: sound files, damaged ones, and files that are none of ours."""
    root = copied(COMPRESSED, tmp_path / "archive" / "study")
    copied(DAMAGED, root.parent / "damaged")
    copied(("CT_small.dcm",), root.parent)
    (root.parent / "DICOMDIR").write_bytes(shipped(DICOMDIR).read_bytes())
    (root.parent / "README.TXT").write_text("not DICOM")
    (root / "empty").touch()
    return root.parent


def test_a_folder_keeps_its_tree_and_what_fails_is_told_and_ends_with_1(
    archive: Path, tmp_path: Path
) -> None:
    before = digests(archive)
    out = tmp_path / "out"
    done = transcode(archive, out, "--to", "ExplicitVRLittleEndian")
    assert done.returncode == 1, done
    assert set(digests(out)) == {"CT_small.dcm", *(f"study/{name}" for name in COMPRESSED)}
    assert digests(archive) == before
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert [Path(line.split(": ")[1]).name for line in failures] == sorted(DAMAGED)
    assert all(len(line.split(": ", 2)[2]) > 20 for line in failures), failures
    summary = done.stdout.splitlines()[-1]
    made = f"{len(COMPRESSED)} transcoded, 1 passed through unchanged, 3 skipped, 3 failed"
    assert summary.startswith(f"{len(COMPRESSED) + 7} files: {made}; "), summary
    assert summary.endswith("MB/s")
    assert "Traceback" not in done.stderr


def test_what_it_makes_are_the_same_instances_with_the_pixels_that_gdcm_decodes(tmp_path: Path) -> None:
    # Grey or RGB, which every decoder leaves as it is.
    names = ("693_J2KI.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm")
    out = tmp_path / "out"
    done = transcode(copied(names, tmp_path / "in"), out, "--to", EXPLICIT_LE)
    assert (done.returncode, done.stderr) == (0, "")
    for name in names:
        assert syntax_of(out / name) == EXPLICIT_LE
        assert uid_of(out / name) == uid_of(shipped(name))
        assert native_pixels(out / name) == gdcm_pixels(shipped(name), tmp_path), name


def test_many_processes_make_the_same_bytes_as_one(archive: Path, tmp_path: Path) -> None:
    for count in (1, 4):
        transcode(archive, tmp_path / str(count), "--to", "uncompressed", "--jobs", count)
    assert digests(tmp_path / "1") == digests(tmp_path / "4")


def test_one_file_becomes_the_file_that_is_named(tmp_path: Path) -> None:
    target = tmp_path / "new" / "ct.dcm"
    done = transcode(shipped("CT_small.dcm"), target, "--to", IMPLICIT_LE)
    assert (done.returncode, done.stderr) == (0, "")
    assert syntax_of(target) == IMPLICIT_LE
    assert done.stdout.startswith("1 file: 1 transcoded, 0 failed; ")


@pytest.mark.parametrize(("name", "group"), [("rtplan.dcm", "uncompressed"), ("MR_small_RLE.dcm", "rle")])
def test_a_file_that_is_in_the_group_passes_through_byte_for_byte(
    tmp_path: Path, name: str, group: str
) -> None:
    done = transcode(shipped(name), tmp_path / "out.dcm", "--to", group)
    assert done.returncode == 0
    assert (tmp_path / "out.dcm").read_bytes() == shipped(name).read_bytes()
    assert "1 passed through unchanged" in done.stdout


def test_a_lossless_target_keeps_instance_and_pixels(tmp_path: Path) -> None:
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "693_J2KR.dcm")
    out = tmp_path / "out"
    done = transcode(copied(names, tmp_path / "in"), out, "--to", "jpeg-ls")
    assert done.returncode == 0, done
    for name in names:
        assert syntax_of(out / name) == "1.2.840.10008.1.2.4.80"
        assert uid_of(out / name) == uid_of(shipped(name))
        assert gdcm_pixels(out / name, tmp_path) == gdcm_pixels(shipped(name), tmp_path), name


@pytest.mark.parametrize("to", ["JPEG2000", "jpeg", "1.2.840.10008.1.2.4.81"])
def test_nothing_is_lost_unasked(tmp_path: Path, to: str) -> None:
    refused = transcode(shipped("CT_small.dcm"), tmp_path / "out", "--to", to)
    assert refused.returncode == 2
    assert "is lossy, and nothing is lost unasked: add --lossy" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_what_may_be_lost_is_a_new_instance_and_says_so(tmp_path: Path) -> None:
    source, out = shipped("CT_small.dcm"), tmp_path / "out.dcm"
    assert transcode(source, out, "--to", "jpeg2000", "--ratio", 5).returncode == 0
    made = dcmread(out)
    assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.91"
    assert made.LossyImageCompression == "01"
    assert made.SOPInstanceUID != uid_of(source)
    smaller = tmp_path / "smaller.dcm"
    transcode(source, smaller, "--to", "jpeg2000", "--ratio", 20)
    assert smaller.stat().st_size < out.stat().st_size


def test_a_jpeg_becomes_jpeg_xl_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    source = shipped("SC_rgb_jpeg_dcmtk.dcm")
    xl, back = tmp_path / "xl.dcm", tmp_path / "back.dcm"
    assert transcode(source, xl, "--to", "jpeg-xl").returncode == 0
    assert syntax_of(xl) == "1.2.840.10008.1.2.4.111"
    assert transcode(xl, back, "--to", "jpeg", "--lossy").returncode == 0
    assert list(generate_frames(dcmread(back).PixelData, number_of_frames=1)) == list(
        generate_frames(dcmread(source).PixelData, number_of_frames=1)
    )
    assert uid_of(back) == uid_of(source)


def test_a_report_among_images_stays_as_it_is_but_cannot_be_asked_for(tmp_path: Path) -> None:
    source = copied(("CT_small.dcm", "rtplan.dcm"), tmp_path / "in")
    out = tmp_path / "out"
    done = transcode(source, out, "--to", "rle")
    assert done.returncode == 0, done
    assert "1 file: no pixel data: left in its transfer syntax" in done.stdout
    assert (out / "rtplan.dcm").read_bytes() == (source / "rtplan.dcm").read_bytes()
    assert "2 made before" in transcode(source, out, "--to", "rle").stdout
    alone = transcode(source / "rtplan.dcm", tmp_path / "plan.dcm", "--to", "rle")
    assert alone.returncode == 1
    assert "no pixel data" in alone.stdout


def test_files_that_are_named_must_be_dicom(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not DICOM")
    done = transcode(text, shipped(DICOMDIR), shipped("CT_small.dcm"), tmp_path / "out", "--to", IMPLICIT_LE)
    assert done.returncode == 1
    assert f"failed: {text}: no DICOM file" in done.stdout
    assert "DICOMDIR: it describes other files" in done.stdout
    assert set(digests(tmp_path / "out")) == {"CT_small.dcm"}


def test_the_environment_raises_and_lowers_ceilings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shipped("emri_small_RLE.dcm"), tmp_path / "out.dcm", "--to", "uncompressed"
    monkeypatch.setenv("DICOMFERRY_WORKER__MOST_FRAGMENTS", "9")
    refused = transcode(*words)
    assert refused.returncode == 1
    assert "the ceiling is 9; if it is sound, raise [worker] most_fragments" in refused.stdout
    monkeypatch.setenv("DICOMFERRY_WORKER__MOST_FRAGMENTS", "10")
    assert transcode(*words).returncode == 0


def test_outputs_that_exist_are_replaced_only_when_told(tmp_path: Path) -> None:
    target = tmp_path / "ct.dcm"
    target.write_bytes(shipped("MR_small.dcm").read_bytes())
    words = (shipped("CT_small.dcm"), target, "--to", IMPLICIT_LE)
    refused = transcode(*words)
    assert refused.returncode == 1
    assert "--overwrite" in refused.stdout
    assert target.read_bytes() == shipped("MR_small.dcm").read_bytes()
    assert transcode(*words, "--overwrite").returncode == 0
    assert uid_of(target) == uid_of(shipped("CT_small.dcm"))


def test_a_run_that_was_interrupted_goes_on_where_it_ended(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    transcode(archive, out, "--to", "uncompressed")
    made = digests(out)
    (out / "study" / "693_J2KI.dcm").unlink()
    again = transcode(archive, out, "--to", "uncompressed")
    assert digests(out) == made
    assert f"1 transcoded, {len(made) - 1} made before, " in again.stdout


def test_what_was_skipped_and_what_changed_is_counted_and_named_when_asked(
    archive: Path, tmp_path: Path
) -> None:
    yellow = ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_small_odd_jpeg.dcm")
    copied(yellow, archive / "study")
    shutil.rmtree(archive / "damaged")
    words = (archive, tmp_path / "out", "--to", "uncompressed")
    counted = transcode(*words).stdout
    named = transcode(*words, "--overwrite", "--verbose").stdout
    assert "2 files: YBR_FULL became RGB\n" in counted
    assert "2 files: skipped: no DICOM file\n" in counted
    assert "1 file: skipped: a DICOMDIR: it describes other files as they were\n" in counted
    assert "README" not in counted
    lines = dict(line.split(": ", 1) for line in named.splitlines()[:-1])
    assert (
        lines.items()
        >= {
            f"{archive}/README.TXT": "skipped: no DICOM file",
            f"{archive}/study/empty": "skipped: no DICOM file",
            **{f"{archive}/study/{name}": "transcoded: YBR_FULL became RGB" for name in yellow},
        }.items()
    )
    assert list(lines) == sorted(lines)


def test_a_second_run_says_what_it_left_and_why(tmp_path: Path) -> None:
    source = copied(("CT_small.dcm", "MR_small_RLE.dcm", "rtplan.dcm"), tmp_path / "in")
    words = (source, tmp_path / "out", "--to", "rle")
    transcode(*words)
    counted = transcode(*words).stdout
    assert "2 files: made before: the output exists and is RLE: --overwrite makes it again\n" in counted
    assert "1 file: made before: the output exists and is the same as the original" in counted
    named = transcode(*words, "--verbose").stdout
    assert f"{source}/CT_small.dcm: made before: the output exists and is RLE" in named


def test_of_several_folders_each_gets_its_own(tmp_path: Path) -> None:
    first = copied(("CT_small.dcm",), tmp_path / "a" / "one")
    second = copied(("CT_small.dcm",), tmp_path / "b" / "two")
    out = tmp_path / "out"
    assert transcode(first, second, out, "--to", IMPLICIT_LE).returncode == 0
    assert set(digests(out)) == {"one/CT_small.dcm", "two/CT_small.dcm"}


@pytest.mark.parametrize(
    ("out", "says"),
    [("in", "is inside"), ("in/deep/er", "is inside"), ("in/CT_small.dcm", "is inside")],
)
def test_a_folder_is_never_written_into_itself(tmp_path: Path, out: str, says: str) -> None:
    source = copied(("CT_small.dcm",), tmp_path / "in")
    before = digests(tmp_path)
    refused = transcode(source, tmp_path / out, "--to", IMPLICIT_LE, "--overwrite")
    assert refused.returncode == 2
    assert says in refused.stderr
    assert digests(tmp_path) == before


def test_no_original_is_overwritten_by_whatever_way_it_is_reached(tmp_path: Path) -> None:
    deep = copied(("CT_small.dcm",), tmp_path / "out" / "in")
    copied(("MR_small.dcm",), tmp_path / "x" / "in")
    (tmp_path / "link").symlink_to(deep, target_is_directory=True)
    before = digests(tmp_path)
    original = deep / "CT_small.dcm"
    for words in (
        (original, original),
        (original, deep),
        (original, tmp_path / "link" / "CT_small.dcm"),
        (deep, tmp_path / "link"),
        (deep, tmp_path / "x" / "in", tmp_path / "out"),  # out/in/CT_small.dcm again
    ):
        refused = transcode(*words, "--to", IMPLICIT_LE, "--overwrite")
        assert refused.returncode == 2, words
        assert refused.stderr.startswith("dicomferry: "), words
    assert digests(tmp_path) == before


def test_two_files_that_would_become_one_are_refused(tmp_path: Path) -> None:
    first = copied(("CT_small.dcm",), tmp_path / "a")
    second = copied(("CT_small.dcm",), tmp_path / "b")
    words = first / "CT_small.dcm", second / "CT_small.dcm", tmp_path / "out"
    refused = transcode(*words, "--to", IMPLICIT_LE)
    assert refused.returncode == 2
    assert "would both become" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("to", "more", "says"),
    [
        ("JPEG2000Losless", (), "did you mean 'JPEG2000Lossless'"),
        ("mpeg", (), "can be passed through, but not made"),
        ("ExplicitVRLittleEndian", ("--lossy",), "loses nothing"),
        ("ExplicitVRLittleEndian", ("--quality", "101"), "--quality"),
        ("JPEG2000", ("--quality", "80"), "JPEG2000 does not take --quality; it takes --ratio"),
        ("ExplicitVRLittleEndian", ("--colour", "cmyk"), "--colour"),
    ],
)
def test_what_cannot_be_asked_for_ends_with_2(
    tmp_path: Path, to: str, more: tuple[str, ...], says: str
) -> None:
    refused = transcode(shipped("CT_small.dcm"), tmp_path / "out", "--to", to, *more)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not (tmp_path / "out").exists()


def test_an_input_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    refused = transcode(tmp_path / "nothing", tmp_path / "out", "--to", "uncompressed")
    assert refused.returncode == 2
    assert "no such file or folder" in refused.stderr


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    """A pipe that is read hangs; a rename onto /dev/null would replace it for the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for words in ((pipe, tmp_path / "out"), (shipped("CT_small.dcm"), pipe)):
        refused = transcode(*words, "--to", "uncompressed", "--overwrite")
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"dicomferry: {pipe}")
    assert pipe.is_fifo()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read_is_told_and_never_left_out_unsaid(tmp_path: Path) -> None:
    copied(("CT_small.dcm",), tmp_path / "archive" / "open")
    closed = copied(("MR_small.dcm",), tmp_path / "archive" / "closed")
    closed.chmod(0)
    # Root may read everything, unless it gives its capabilities away.
    meek = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

    def run(path: Path) -> "subprocess.CompletedProcess[str]":
        words = [*meek, *command(path, tmp_path / "out", "--to", "rle")]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    partly = run(tmp_path / "archive")
    named = run(closed / "MR_small.dcm")
    closed.chmod(0o755)
    assert partly.returncode == 1
    assert f"failed: {closed}: Permission denied" in partly.stdout
    assert list(digests(tmp_path / "out")) == ["open/CT_small.dcm"]
    assert named.returncode == 2
    assert named.stderr == f"dicomferry: {closed / 'MR_small.dcm'}: Permission denied\n"


def test_an_image_over_the_memory_ceiling_fails_and_names_the_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = dcmread(shipped("CT_small.dcm"))
    image.Rows = image.Columns = 12_000
    image.PixelData = bytes(2 * 12_000**2)
    image.save_as(tmp_path / "large.dcm")
    monkeypatch.setenv("DICOMFERRY_WORKER__MEMORY_MB", "512")
    failed = transcode(tmp_path / "large.dcm", tmp_path / "out.dcm", "--to", "rle")
    assert failed.returncode == 1
    assert "the ceiling is 512; if it is sound, raise [worker] memory_mb" in failed.stdout
    assert not list(tmp_path.glob("*out.dcm*"))


def test_a_file_name_is_shown_in_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    hostile = [
        folder / f"{name}.dcm" for name in ("X\nFAKE log line", "\x1b[31mred", "\u202egnp", "[red]", "\udcff")
    ]
    for file in hostile:
        file.write_bytes(bytes(128) + b"DICM" + b"junk")
    # What is missing or named twice ends the run: one at a time.
    alone = [inputs for file in hostile for inputs in ([file, file], [file.with_suffix(".none")])]
    for inputs in ([folder], hostile, *alone):
        done = transcode(*inputs, tmp_path / "out", "--to", "uncompressed")
        lines = (done.stdout + done.stderr).splitlines()
        assert done.returncode != 0
        assert all(line.isprintable() and not line.startswith("FAKE") for line in lines), lines
