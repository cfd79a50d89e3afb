"""Data sets that say something wrong about themselves: what workstations get is what they are.

`ANY` takes every transfer syntax, `PLAIN` a stock workstation's, `EXPLICIT` one of them alone.
"""

import zlib
from contextlib import ExitStack
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, label
from tests.support.images.files import shipped
from tests.support.peers.raw import CT, Raw, p_data, store_request
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until
from tests.support.running.site import Site

J2K, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
NATIVE = (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)
ANY = (*NATIVE, DEFLATED_LE, J2K, RLE)
LEFT_OVER = b"\2\0\3\0UI\6\x009.9.9\0\2\0\x10\0UI\x16\x001.2.840.10008.1.2.4.90"
LEFT_OVER_BIG = b"\0\2\0\3UI\0\x069.9.9\0\0\2\0\x10UI\0\x161.2.840.10008.1.2.4.90"
LEFT_OVER_IMPLICIT = b"\2\0\3\0\6\0\0\x009.9.9\0\2\0\x10\0\x16\0\0\x001.2.840.10008.1.2.4.90"
COMMAND = b"\0\0\2\0\x1a\0\0\x001.2.840.10008.5.1.4.1.1.2\0"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="module")
def peers():
    with ExitStack() as stack:
        shown = {"any": ANY, "plain": (EXPLICIT_LE, IMPLICIT_LE), "explicit": (EXPLICIT_LE,)}
        yield {name: stack.enter_context(pynetdicom_scp(uids)) for name, uids in shown.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory, peers):
    folder = tmp_path_factory.mktemp("site")
    wanted = {"any": "all", "plain": "uncompressed", "explicit": "ExplicitVRLittleEndian"}
    destinations = (
        destination(name, peer.port, title="WS", transfer_syntaxes=[wanted[name]])
        for name, peer in peers.items()
    )
    with Site(folder, *destinations) as running:
        yield running


def an_image(name: str = "CT_small.dcm") -> Dataset:
    dataset = dcmread(shipped(name))
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, generate_uid()
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    """The data set's bytes in the encoding of a transfer syntax; not deflated."""
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax == IMPLICIT_LE, syntax != EXPLICIT_BE
    plain = Dataset(dataset)
    write_dataset(out, plain)
    return out.getvalue()


def deflated(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    made = compressor.compress(content) + compressor.flush()
    return made + b"\0" * (len(made) % 2)


def read(content: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED_LE:
        content = zlib.decompress(content, -zlib.MAX_WBITS)
    return read_dataset(BytesIO(content), syntax == IMPLICIT_LE, syntax != EXPLICIT_BE)


def said(content: bytes, syntax: str) -> tuple[dict[int, object], list[int]]:
    """What a data set of 16 bit cells says, in whatever encoding: its elements' values, and its pixels."""
    dataset = read(content, syntax)
    cells = np.frombuffer(dataset.PixelData, ">i2" if syntax == EXPLICIT_BE else "<i2").tolist()
    return {element.tag: element.value for element in dataset if element.tag != 0x7FE00010}, cells


def send(site: Site, uid: str, syntax: str, content: bytes) -> None:
    """Send bytes as the data set of a C-STORE in a presentation context of `syntax`."""
    with Raw.associated(site.port, (1, CT, syntax)) as peer:
        peer.send(p_data(1, 3, store_request(uid.encode())))
        for at in range(0, len(content), 16_000):
            peer.send(p_data(1, 2 if at + 16_000 >= len(content) else 0, content[at : at + 16_000]))
        assert peer.status() == 0x0000


def got(peer, uid: str) -> tuple[str, bytes]:
    """Transfer syntax of the presentation context, and bytes, of what came under that SOP Instance UID."""
    wait_until(lambda: any(sent[0] == uid for sent in peer.datasets), "the object", 60)
    ((syntax, content),) = {(sent[1], sent[2]) for sent in peer.datasets if sent[0] == uid}
    assert not any(sent[0] == "9.9.9" for sent in peer.datasets)
    return syntax, content


@pytest.mark.parametrize(
    ("syntax", "strays"),
    [
        (EXPLICIT_LE, LEFT_OVER),
        (EXPLICIT_LE, COMMAND),
        (IMPLICIT_LE, LEFT_OVER),
        (IMPLICIT_LE, COMMAND + LEFT_OVER_IMPLICIT),
        (EXPLICIT_BE, LEFT_OVER),
        (EXPLICIT_BE, LEFT_OVER_BIG),
        (DEFLATED_LE, LEFT_OVER),
    ],
    ids=lambda value: label(value) if isinstance(value, str) else value[:4].hex(),
)
def test_what_is_left_over_at_the_head_of_a_data_set_relabels_nothing_and_goes_nowhere(
    site, peers, syntax, strays
):
    dataset = an_image()
    own = encoded(dataset, syntax)
    content = strays + own
    send(site, dataset.SOPInstanceUID, syntax, deflated(content) if syntax == DEFLATED_LE else content)
    at_any, content = got(peers["any"], dataset.SOPInstanceUID)
    assert at_any == syntax
    assert content == own or syntax == DEFLATED_LE
    for peer in peers.values():
        at, content = got(peer, dataset.SOPInstanceUID)
        assert said(content, at) == said(own, EXPLICIT_LE if syntax == DEFLATED_LE else syntax)
    assert "group 0000 or 0002" in site.command("explain", dataset.SOPInstanceUID).stdout


def test_a_stray_in_the_middle_of_a_data_set_goes_nowhere_either(site, peers):
    dataset = an_image()
    own = encoded(dataset, EXPLICIT_LE)
    at = own.index(b"\x10\0\x10\0PN")
    send(site, dataset.SOPInstanceUID, EXPLICIT_LE, own[:at] + LEFT_OVER + own[at:])
    for peer in peers.values():
        syntax, content = got(peer, dataset.SOPInstanceUID)
        assert (syntax, said(content, syntax)) == (EXPLICIT_LE, said(own, EXPLICIT_LE))


@pytest.mark.parametrize("context", [*NATIVE, DEFLATED_LE], ids=label)
@pytest.mark.parametrize("real", NATIVE, ids=label)
def test_a_native_data_set_is_delivered_in_the_encoding_that_it_has(site, peers, context, real):
    dataset = an_image()
    own = encoded(dataset, real)
    send(site, dataset.SOPInstanceUID, context, deflated(own) if context == DEFLATED_LE else own)
    at_any, content = got(peers["any"], dataset.SOPInstanceUID)
    assert at_any == (DEFLATED_LE if context == DEFLATED_LE else real)
    assert content == own or context == DEFLATED_LE
    for peer in peers.values():
        syntax, content = got(peer, dataset.SOPInstanceUID)
        assert said(content, syntax) == said(own, real)
    told = site.command("explain", dataset.SOPInstanceUID).stdout
    mislabelled = real != (EXPLICIT_LE if context == DEFLATED_LE else context)
    assert (
        f"is in {label(real)}, though its presentation context was for {label(context)}" in told
    ) == mislabelled


def test_a_compressed_image_in_implicit_vr_is_sent_as_its_transfer_syntax_wants_it(site, peers):
    """No transfer syntax is compressed and in Implicit VR (PS3.5 A.4)."""
    dataset = an_image("693_J2KR.dcm")
    codestream = dataset.PixelData
    dataset["PixelData"].is_undefined_length = True
    send(site, dataset.SOPInstanceUID, J2K, encoded(dataset, IMPLICIT_LE))
    syntax, content = got(peers["any"], dataset.SOPInstanceUID)
    assert syntax == J2K
    assert content[4:6].isalpha()
    arrived = read(content, EXPLICIT_LE)
    assert arrived.PixelData == codestream
    assert arrived.PatientID == dataset.PatientID
    assert got(peers["explicit"], dataset.SOPInstanceUID)[0] == EXPLICIT_LE


@pytest.mark.parametrize(
    ("name", "context", "real"),
    [
        ("CT_small.dcm", J2K, EXPLICIT_LE),
        ("MR_small_implicit.dcm", RLE, IMPLICIT_LE),
        ("MR_small_RLE.dcm", J2K, RLE),
        ("MR_small_RLE.dcm", EXPLICIT_LE, RLE),
    ],
)
def test_pixel_data_in_another_form_than_that_of_its_context_are_delivered_as_what_they_are(
    site, peers, name, context, real
):
    dataset = an_image(name)
    if real == RLE:
        dataset["PixelData"].is_undefined_length = True
    own = encoded(dataset, real)
    send(site, dataset.SOPInstanceUID, context, own)
    assert got(peers["any"], dataset.SOPInstanceUID) == (real, own)
    syntax, content = got(peers["explicit"], dataset.SOPInstanceUID)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    assert syntax == EXPLICIT_LE
    assert said(content, syntax)[1] == dcmread(shipped(name)).pixel_array.ravel().tolist()
    told = site.command("explain", read(own, real).SOPInstanceUID).stdout
    assert f"though its transfer syntax is {label(context)} (PS3.5 A.4)" in told


def test_pixel_data_of_neither_form_are_parked_with_the_reason(site, peers):
    dataset = an_image()
    dataset.PixelData = dataset.PixelData[:-4]
    send(site, dataset.SOPInstanceUID, J2K, encoded(dataset, EXPLICIT_LE))

    def told() -> str:
        return site.command("explain", dataset.SOPInstanceUID).stdout

    wait_until(lambda: told().count("pixel data is not in fragments though the syntax") >= 3, "parked", 60)
    assert not any(sent[0] == dataset.SOPInstanceUID for peer in peers.values() for sent in peer.datasets)
