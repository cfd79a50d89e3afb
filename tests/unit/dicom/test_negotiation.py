"""Requests and acceptances are read alike: what is wrong with either matters only where it is used."""

import pytest

from dicomferry.dicom.negotiation import DamagedNegotiationError, read
from dicomferry.dicom.wire import Pdu
from tests.support.peers.raw import CT, EXPLICIT_LE, association_acceptance, association_request, item

DOORS = {Pdu.ASSOCIATE_RQ: association_request, Pdu.ASSOCIATE_AC: association_acceptance}
IGNORED = {
    "a long version": item(0x50, item(0x55, b"V" * 40)),
    "a version with NUL": item(0x50, item(0x55, b"DCMTK\0")),
    "a version not ASCII": item(0x50, item(0x55, b"V\xc4")),
    "a damaged role": item(0x50, item(0x54, b"\0\x501.2")),
    "an unknown sub-item": item(0x50, item(0x7F, b"?")),
    "a maximum length of two bytes": item(0x50, item(0x51, b"\1\1")),
    "an unknown item": item(0x60, b"?"),
    "zeros": bytes(12),
    "another application's item": item(0x20, b"\7\0\0\0") + item(0x21, b"\7\0\4\0"),
}
DAMAGED = {
    "ends in an item's header": b"\x50\0",
    "an item longer than the PDU": item(0x50, b"1234", 5000),
    "a sub-item longer than its item": item(0x50, item(0x51, b"1234", 300)),
    "contexts without an ID": item(0x20, b"") + item(0x21, b""),
}


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("name", IGNORED)
def test_what_neither_door_uses_is_ignored_at_both(kind: Pdu, name: str) -> None:
    found = read(kind, memoryview(DOORS[kind](extra=IGNORED[name])))
    assert found.maximum_length == 16384
    assert found.contexts[0].id == 1
    assert found.contexts[0].transfer_syntaxes == (EXPLICIT_LE,)


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("name", DAMAGED)
def test_what_has_no_structure_is_damaged_at_both_doors(kind: Pdu, name: str) -> None:
    content = DOORS[kind](extra=DAMAGED[name])
    with pytest.raises(DamagedNegotiationError):
        read(kind, memoryview(content))
    with pytest.raises(DamagedNegotiationError, match="fixed part"):
        read(kind, memoryview(content)[:67])


@pytest.mark.parametrize(
    ("sent", "title"),
    [
        (b"FERRY", "FERRY"),
        (b"FERRY\0xyz", "FERRY"),
        (b"\0\0FERRY\0", "FERRY"),
        (b"", ""),
        (bytes(16), ""),
        (b" TWO WORDS ", "TWO WORDS"),
        (b"A\nB", "A\N{REPLACEMENT CHARACTER}B"),
        (b"\xc4", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_title_ends_at_its_first_nul_and_is_printable(sent: bytes, title: str) -> None:
    found = read(Pdu.ASSOCIATE_RQ, memoryview(association_request(called=sent, calling=sent)))
    assert (found.called_ae_title, found.calling_ae_title) == (title, title)


def test_the_first_context_of_an_id_counts() -> None:
    twice = read(Pdu.ASSOCIATE_RQ, memoryview(association_request([(1, CT, EXPLICIT_LE), (1, CT, "1.2.3")])))
    assert [context.transfer_syntaxes for context in twice.contexts] == [(EXPLICIT_LE,)]
    accepted = ((1, 0, EXPLICIT_LE.encode()), (1, 4, b""))
    answers = read(Pdu.ASSOCIATE_AC, memoryview(association_acceptance(accepted))).contexts
    assert [context.result for context in answers] == [0]


@pytest.mark.parametrize("uid", ["", "1.\u00c4", "1." * 40 + "1", "hello\nyou"])
def test_what_is_no_uid_is_an_empty_one(uid: str) -> None:
    found = read(Pdu.ASSOCIATE_RQ, memoryview(association_request([(1, uid, uid)])))
    assert (found.contexts[0].abstract_syntax, found.contexts[0].transfer_syntaxes) == ("", ("",))
