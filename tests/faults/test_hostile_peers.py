"""What peers may do to ingest on purpose or by defect, and what it must cost nobody else.

Each attack is made for real. While it lasts, and after it, a normal sender is served; afterwards no
connection, no unfinished file and nothing outside the spool is left of it.
"""

import re
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.peers.dcmtk import serves
from tests.support.peers.raw import (
    ABORT,
    AC,
    CT,
    EXPLICIT_LE,
    NO_DATA_SET,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    VERIFICATION,
    Raw,
    association_request,
    command,
    data_set,
    echo_request,
    element,
    item,
    p_data,
    pdu,
    pdv,
    store_request,
    us,
)
from tests.support.running.processes import wait_until
from tests.support.running.services import missing
from tests.support.stages.ingesting import Ingest, an_ingest, data_set_of

J2K = "1.2.840.10008.1.2.4.90"
# Of an ingest that is to lose it, and not with a normal sender whose machine stalls: seconds.
PATIENCE = {"artim_timeout": 2.0, "network_timeout": 3.0}
SPOOL = {
    "incoming", "instances", "renditions", "leases", "trash", "delivered", "quarantine", "destinations",
    "schema.json", "receivers", "orders", "quarantine.lock", "seats",
}  # fmt: skip


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    with an_ingest(tmp_path / "site") as running:
        yield running


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Ingest]:
    with an_ingest(tmp_path / "site", ingest=PATIENCE) as running:
        yield running


@contextmanager
def withstood(ingest: Ingest) -> Iterator[None]:
    """An attack: a normal sender is served after it, and nothing of it is left."""
    folder = ingest.spool.root.parent
    before = outside(folder)
    yield
    serves(ingest.port, folder.parent / "sent")
    wait_until(lambda: not ingest.listener.connections(), "every connection to be closed")
    assert not ingest.listener.scp.associations()
    wait_until(lambda: not ingest.leftovers(), "incoming to be empty")
    assert outside(folder) == before
    assert {path.name for path in ingest.spool.root.iterdir()} <= SPOOL


def outside(folder: Path) -> set[Path]:
    """Every path below `folder` that is not below the spool."""
    spool = folder / "spool"
    return {path for path in folder.rglob("*") if spool not in path.parents}


# Peers that keep us waiting


def says_nothing(port: int) -> Raw:
    return Raw(port)


def stops_in_its_request(port: int) -> Raw:
    peer = Raw(port)
    peer.send(pdu(RQ, association_request())[:100])
    return peer


def associates_and_says_nothing(port: int) -> Raw:
    return Raw.associated(port)


def stops_in_a_pdu(port: int) -> Raw:
    peer = Raw.associated(port)
    peer.send(p_data(1, 3, store_request())[:50])
    return peer


def stops_in_a_data_set(port: int) -> Raw:
    peer = Raw.associated(port)
    peer.send(p_data(1, 3, store_request()), p_data(1, 0, data_set()[:500]))
    return peer


HALVES = [
    says_nothing,
    stops_in_its_request,
    associates_and_says_nothing,
    stops_in_a_pdu,
    stops_in_a_data_set,
]


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.__name__)
def test_a_peer_that_falls_silent_is_ended_and_holds_up_nobody(
    impatient: Ingest, tmp_path: Path, half: Callable[[int], Raw]
) -> None:
    with withstood(impatient), half(impatient.port) as peer:
        serves(impatient.port, tmp_path / "meanwhile")
        asked = half in HALVES[2:]
        # Who has no association is owed no answer (PS3.8 AA-2); who has is aborted by the provider.
        assert peer.read() == ((ABORT, b"\0\0\2\0") if asked else (0, b""))


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.__name__)
def test_a_peer_that_vanishes_without_a_word_is_forgotten(
    impatient: Ingest, half: Callable[[int], Raw], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with withstood(impatient):
        peer = half(impatient.port)
        wait_until(impatient.listener.connections, "the connection")
        try:
            peer.vanish()
        except PermissionError:
            missing("only root makes a peer vanish")
    # The kernel knew nothing of it, so this was not the end of a closed connection.
    assert "was silent" in caplog.text
    assert "is gone" not in caplog.text


def trickles_its_request(port: int) -> tuple[Raw, bytes]:
    return Raw(port), pdu(RQ, association_request())


def trickles_a_pdu(port: int) -> tuple[Raw, bytes]:
    return Raw.associated(port), p_data(1, 3, store_request() + bytes(1000))


def trickles_a_command_set(port: int) -> tuple[Raw, bytes]:
    return Raw.associated(port), b"".join(p_data(1, 1, bytes((byte,))) for byte in store_request())


def trickles_a_data_set(port: int) -> tuple[Raw, bytes]:
    peer = Raw.associated(port)
    peer.send(p_data(1, 3, store_request()))
    return peer, b"".join(p_data(1, 0, bytes((byte,))) for byte in data_set())


def trickles_pdus_without_anything_in_them(port: int) -> tuple[Raw, bytes]:
    return Raw.associated(port), pdu(P_DATA, b"") * 200


@pytest.mark.parametrize(
    "loris",
    [
        trickles_its_request,
        trickles_a_pdu,
        trickles_a_command_set,
        trickles_a_data_set,
        trickles_pdus_without_anything_in_them,
    ],
    ids=lambda loris: loris.__name__,
)
def test_a_peer_that_trickles_bytes_holds_no_place_for_ever(
    impatient: Ingest, tmp_path: Path, loris: Callable[[int], tuple[Raw, bytes]]
) -> None:
    with withstood(impatient):
        peer, content = loris(impatient.port)
        with peer:
            serves(impatient.port, tmp_path / "meanwhile")
            assert peer.trickle(content)


def test_a_slow_link_that_goes_on_is_served_however_long_an_object_takes(tmp_path: Path) -> None:
    uid, patience, parts = b"1.2.77", 5.0, 30
    content = data_set(uid, pixels=60_000)
    size = len(content) // parts
    with (
        an_ingest(tmp_path / "site", ingest={"network_timeout": patience}) as ingest,
        withstood(ingest),
        Raw.associated(ingest.port) as peer,
    ):
        peer.send(p_data(1, 3, store_request(uid)))
        for at in range(0, size * parts, size):
            # All pauses together are longer than a peer may be silent.
            assert not select.select([peer.sock], [], [], 1.2 * patience / parts)[0]
            peer.send(p_data(1, 0, content[at : at + size]))
        peer.send(p_data(1, 2, content[size * parts :]))
        assert peer.status() == 0x0000


def test_a_peer_that_reads_no_answers_is_ended(impatient: Ingest) -> None:
    requests = p_data(3, 3, echo_request()) * 500
    sent = 0

    def is_gone() -> bool:
        """Whether the acceptor has closed, seen by sending more."""
        nonlocal sent
        try:
            sent = (sent + peer.sock.send(requests[sent:])) % len(requests)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return False

    with withstood(impatient), Raw.associated(impatient.port) as peer:
        peer.sock.settimeout(0.1)
        wait_until(is_gone, "the end of it", 60)


# Peers that say what is not so

PROVIDER = {reason: bytes((0, 0, 2, reason)) for reason in (1, 2, 5, 6)}  # PS3.8 9.3.8
UNRECOGNISED, UNEXPECTED, UNEXPECTED_PARAMETER, INVALID = (PROVIDER[reason] for reason in (1, 2, 5, 6))
STORE, DATA = store_request(), data_set()

VIOLATIONS = {
    "a PDU of 4 GiB": (pdu(P_DATA, b"", 0xFFFFFFFF), INVALID),
    "a PDU of an unknown type": (pdu(0x55, b"1234"), UNRECOGNISED),
    "a PDU of type 0": (pdu(0, b"1234"), UNRECOGNISED),
    "a second request for an association": (pdu(RQ, association_request()), UNEXPECTED),
    "an acceptance": (pdu(AC, association_request()), UNEXPECTED),
    "a PDV longer than its PDU": (pdu(P_DATA, pdv(1, 3, STORE, len(STORE) + 3)), INVALID),
    "a PDV of 4 GiB": (pdu(P_DATA, pdv(1, 3, STORE, 0xFFFFFFFF)), INVALID),
    "a PDV without a header": (pdu(P_DATA, pdv(1, 3, STORE, 1)), INVALID),
    "a PDV of no length": (pdu(P_DATA, pdv(1, 3, STORE, 0)), INVALID),
    "a PDU that ends in a PDV's length": (pdu(P_DATA, b"\0\0\1"), INVALID),
    "an unknown context": (p_data(201, 3, STORE), INVALID),
    "a context that was not accepted": (p_data(5, 3, STORE), INVALID),
    "another context within a message": (p_data(1, 3, STORE) + p_data(3, 2, DATA), UNEXPECTED_PARAMETER),
    "a data set without a command set": (p_data(1, 2, DATA), UNEXPECTED_PARAMETER),
    "a command set where a data set is due": (p_data(1, 3, STORE) * 2, UNEXPECTED_PARAMETER),
    "a data set longer than its last fragment": (
        p_data(3, 3, echo_request()) + p_data(3, 2, DATA),
        UNEXPECTED_PARAMETER,
    ),
    "an element longer than its command set": (
        p_data(1, 3, command(us(0x0100, 1), element(0x1000, b"1.2.3", 0xFFFFFFF0))),
        INVALID,
    ),
    "a command set that ends in an element": (p_data(1, 3, STORE[:-3]), INVALID),
    "a command set of no elements": (p_data(1, 3, b""), INVALID),
    "a command set of garbage": (p_data(1, 3, b"no command set at all, this is"), INVALID),
    "a command set without an end": (p_data(1, 1, bytes(10_000)) * 2, INVALID),
    "a request without a Message ID": (p_data(1, 3, command(us(0x0100, 1), us(0x0800, 1))), INVALID),
    "a response to nothing": (
        p_data(1, 3, command(us(0x0100, 0x8001), us(0x0120, 1), us(0x0800, NO_DATA_SET), us(0x0900, 0))),
        UNEXPECTED_PARAMETER,
    ),
}  # fmt: skip
CONTEXTS = (1, CT, EXPLICIT_LE), (3, VERIFICATION, EXPLICIT_LE), (5, "1.2.3.4", EXPLICIT_LE)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_violates_the_protocol_is_aborted_with_its_reason(ingest: Ingest, name: str) -> None:
    sent, reason = VIOLATIONS[name]
    with withstood(ingest), Raw.associated(ingest.port, *CONTEXTS) as peer:
        peer.send(sent)
        kind, content = peer.read()
        if kind == P_DATA:  # of what came before
            kind, content = peer.read()
        assert (kind, content) == (ABORT, reason)
    assert len(ingest.instances()) == 1  # the normal sender's


REQUESTS = {
    "a request of 4 GiB": pdu(RQ, b"", 0xFFFFFFFF),
    "an unknown type": pdu(0x55, b"1234"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a data set before all": p_data(1, 3, STORE),
    "a request that ends in its fixed part": pdu(RQ, association_request()[:50]),
    "an item longer than the request": pdu(RQ, association_request(extra=item(0x50, b"1234", 5000))),
    "an item that ends in its header": pdu(RQ, association_request(extra=b"\x20\0")),
    "a context without an ID": pdu(RQ, association_request(extra=item(0x20, b""))),
    "a transfer syntax longer than its context": pdu(
        RQ, association_request(extra=item(0x20, b"\7\0\0\0" + item(0x40, b"1.2", 300)))
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_no_association_request_is_aborted(ingest: Ingest, name: str) -> None:
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(REQUESTS[name])
        assert peer.read() == (ABORT, bytes(4))


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (association_request(application=b"1.2.3"), (1, 1, 2)),
        (association_request(version=2), (1, 2, 2)),
        (association_request(called=b"FER\nRY"), (1, 1, 7)),
        (association_request(called=b"\xff\xfe"), (1, 1, 7)),
    ],
)
def test_what_we_do_not_speak_or_are_not_is_rejected(
    ingest: Ingest, request_: bytes, answer: tuple[int, int, int]
) -> None:
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(pdu(RQ, request_))
        assert peer.read() == (RJ, bytes((0, *answer)))


ODD = {
    "a title padded with NUL": association_request(calling=b"PACS" + bytes(12)),
    "a called title with junk behind a NUL": association_request(called=b"FERRY\0xyz"),
    "a called title with unprintable junk": association_request(called=b" FERRY \0\xff\0\n\0"),
    "a calling title with junk behind a NUL": association_request(calling=b"PACS\0\0\xfe\0xyz"),
    "a context ID twice": association_request([(1, CT, EXPLICIT_LE), (1, CT, J2K)]),
    "a blank title": association_request(calling=b""),
    "a title that is not ASCII": association_request(calling="MODALIT\u00c4T".encode("latin-1")),
    "an item that nobody knows": association_request(extra=item(0x60, b"of tomorrow")),
    "user information that nobody knows": association_request(extra=item(0x50, item(0x7F, b"of tomorrow"))),
    "a version that is not ASCII": association_request(extra=item(0x50, item(0x55, b"V\xc4"))),
    "a version that is too long": association_request(extra=item(0x50, item(0x55, b"V" * 40))),
    "a role that there is not": association_request(extra=item(0x50, item(0x54, b"\0\31.2\7\7"))),
    "an application context padded with NUL": association_request(application=b"1.2.840.10008.3.1.1.1\0\0"),
    "a class padded with NUL": association_request([(3, CT + "\0\0", EXPLICIT_LE), (1, CT, EXPLICIT_LE)]),
    "a context with what nobody knows": association_request(
        extra=item(0x20, b"\5\0\0\0" + item(0x30, CT.encode()) + item(0x7F, b"of tomorrow"))
    ),
} | {
    f"a context of {what}": association_request([(1, CT, EXPLICIT_LE), (3, sop_class, syntax)])
    for what, sop_class, syntax in (
        ("no class", "", EXPLICIT_LE),
        ("no syntax", CT, ""),
        ("a class that is no UID", "hello\nyou", EXPLICIT_LE),
        ("a class that is not ASCII", "1.2.\u00c4", EXPLICIT_LE),
        ("a class that is too long", "1." * 40 + "1", EXPLICIT_LE),
        ("a syntax that is too long", CT, "1." * 40 + "1"),
    )
}


@pytest.mark.parametrize("name", ODD)
def test_what_old_and_odd_senders_ask_for_is_granted_as_others_grant_it(ingest: Ingest, name: str) -> None:
    """A study would not be seen for it. storescp grants nearly all of them, too."""
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(pdu(RQ, ODD[name]))
        kind, content = peer.read()
        assert kind == AC
        assert content[2:68] == ODD[name][2:68]  # titles and reserved bytes come back (PS3.8 table 9-17)
        peer.send(p_data(1, 3, store_request()), p_data(1, 2, DATA))
        assert peer.status() == 0x0000


def test_of_two_contexts_with_one_id_the_first_counts(ingest: Ingest) -> None:
    request = association_request([(1, CT, EXPLICIT_LE), (1, CT, J2K), (3, VERIFICATION, EXPLICIT_LE)])
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(pdu(RQ, request))
        kind, content = peer.read()
        assert kind == AC
        assert content.count(b"\x21\0") == 2  # as many contexts are answered
        assert peer.store(b"1.2.77") == 0x0000
        assert peer.echo() == 0x0000
    (instance,) = (found for found in ingest.instances() if found.sop_instance_uid == "1.2.77")
    assert instance.transfer_syntax_uid == EXPLICIT_LE


STUDY_UIDS = {
    b"1.2.3": "",
    b"1.2.3\0": "",
    b"1.2.3  ": "",
    b" 1.2.3": "",
    b"1.2.3\0junk": "",
    b"1." + b"2" * 64: "has more than 64 characters",
    b"1." + b"2" * 200: "has more than 64 characters",
    b"1.2.SMITH": "has other characters than digits and dots",
    b"1.2.03": "has a component with a leading zero",
    b"1..3": "has an empty component",
    b"1.2.3.": "has an empty component",
}


@pytest.mark.parametrize(("uid", "fault"), STUDY_UIDS.items(), ids=lambda value: repr(value[:12]))
def test_a_study_uid_that_is_none_is_passed_on_with_a_note(ingest: Ingest, uid: bytes, fault: str) -> None:
    sent = data_set(b"1.2.77", uid)
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        assert peer.store(b"1.2.77", sent) == 0x0000
    (instance,) = (found for found in ingest.instances() if found.sop_instance_uid == "1.2.77")
    assert ingest.encoded(instance) == sent
    assert instance.notes == ((f"its Study Instance UID {fault} (PS3.5 9.1)",) if fault else ())
    assert "SMITH" not in instance.study_instance_uid


@pytest.mark.parametrize("sent", [b"", b"garbage", DATA[:100]], ids=["nothing", "garbage", "cut"])
def test_what_is_answered_cannot_understand_is_kept(ingest: Ingest, sent: bytes) -> None:
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        assert peer.store(b"1.2.3", sent) == 0xC000
    (kept,) = ingest.spool.quarantine.iterdir()
    assert data_set_of(kept / "received.dcm") == sent


def test_an_ae_title_forges_no_line_of_the_log(ingest: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(pdu(RQ, association_request(calling=b"A\nReceived x")))
        assert peer.read()[0] == AC
    assert any("A\N{REPLACEMENT CHARACTER}Received x" in line for line in caplog.text.splitlines())


def test_a_wrong_group_length_is_forgiven(ingest: Ingest) -> None:
    right = store_request()
    for wrong in (0, 1, 0xFFFFFFFF):
        sent = right[:8] + struct.pack("<I", wrong) + right[12:]
        with withstood(ingest), Raw.associated(ingest.port) as peer:
            peer.send(p_data(1, 3, sent), p_data(1, 2, DATA))
            assert peer.status() == 0x0000


@pytest.mark.parametrize(
    ("context", "field", "has_data_set"), [(1, 0x0020, True), (1, 0x0140, False), (3, 0x0001, True)]
)
def test_an_operation_that_a_context_does_not_have_is_answered_and_the_association_goes_on(
    ingest: Ingest, context: int, field: int, has_data_set: bool
) -> None:
    request = command(
        element(0x0002, VERIFICATION.encode()),
        us(0x0100, field),
        us(0x0110, 7),
        us(0x0800, 1 if has_data_set else NO_DATA_SET),
        element(0x1000, b"1.2.3"),
    )
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        peer.send(p_data(context, 3, request), p_data(context, 2, DATA) if has_data_set else b"")
        assert peer.status() == 0x0211
        cancel = command(us(0x0100, 0x0FFF), us(0x0120, 7), us(0x0800, NO_DATA_SET))
        peer.send(p_data(1, 3, cancel))  # is not answered
        assert peer.echo() == 0x0000
        assert peer.store(b"1.2.88") == 0x0000


@pytest.mark.parametrize("cut", [0, 8, len(DATA) // 2, len(DATA) - 1])
def test_a_data_set_shorter_than_it_says_is_refused_and_kept_aside(ingest: Ingest, cut: int) -> None:
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        assert peer.store(b"1.2.3", DATA[:cut]) & 0xF000 in {0xA000, 0xC000}
        assert peer.echo() == 0x0000
    assert len(ingest.instances()) == 1


def test_a_release_or_an_abort_in_the_middle_of_an_object_leaves_nothing_of_it(ingest: Ingest) -> None:
    for farewell, answer in ((RELEASE_RQ, (RELEASE_RP, bytes(4))), (ABORT, (0, b""))):
        with withstood(ingest), stops_in_a_data_set(ingest.port) as peer:
            wait_until(ingest.leftovers, "the object to begin to arrive")
            peer.send(pdu(farewell, bytes(4)))
            assert peer.read() == answer


def test_a_message_in_fragments_of_a_byte_is_one_message(ingest: Ingest) -> None:
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        for control, content in ((1, store_request(b"1.2.66")), (0, data_set(b"1.2.66"))):
            last = len(content) - 1
            parts = (
                pdv(1, control | (2 if at == last else 0), content[at : at + 1]) for at in range(len(content))
            )
            peer.send(pdu(P_DATA, b"".join(parts)))
        assert peer.status() == 0x0000
    assert "1.2.66" in {instance.sop_instance_uid for instance in ingest.instances()}


def test_a_requestor_that_takes_tiny_pdus_gets_its_answer_in_such(ingest: Ingest) -> None:
    with withstood(ingest), Raw(ingest.port) as peer:
        peer.send(pdu(RQ, association_request(maximum_length=16)))
        assert peer.read()[0] == AC
        peer.send(p_data(3, 3, echo_request()))
        answer, last = b"", 0
        while not last & 2:
            kind, content = peer.read()
            assert kind == P_DATA
            assert len(content) <= 16
            last = content[5]
            answer += content[6:]
        assert answer.endswith(us(0x0900, 0))


# UIDs that are none

NO_UIDS = [
    b"../../../../../../escaped",
    b"/tmp/escaped",
    b"1.2/../../escaped",
    b"1.2.3\n",
    b"1.2.3\n1.2.4",
    b"..",
    b".",
    b"1.2.3\\4",
    b"1." + b"2" * 63,
    b"1" * 5000,
    b"\xff\xfe",
    b"%2e%2e",
    b"",
]


@pytest.mark.parametrize("uid", NO_UIDS, ids=lambda uid: repr(uid[:20]))
@pytest.mark.parametrize("where", ["command set", "data set", "both", "study"])
def test_a_uid_that_is_none_is_refused_and_becomes_no_path(ingest: Ingest, uid: bytes, where: str) -> None:
    in_command = b"1.2.3" if where in {"data set", "study"} else uid
    in_data_set = b"1.2.3" if where in {"command set", "study"} else uid
    study = uid if where == "study" else b"1.2.4"
    with withstood(ingest), Raw.associated(ingest.port) as peer:
        status = peer.store(in_command, data_set(in_data_set, study))
        if where == "study":
            assert status == 0x0000  # passed on, as others do
        elif where == "data set":
            assert status == 0xA900
        else:
            assert status == 0xC000
            (kept,) = ingest.spool.quarantine.iterdir()
            assert data_set_of(kept / "received.dcm") == data_set(in_data_set, study)
            assert "Affected SOP Instance UID is no UID" in (kept / "reason.json").read_text()
        assert peer.store(b"1.2.99", data_set(b"1.2.99")) == 0x0000
    for instance in ingest.instances():
        assert re.fullmatch(r"[0-9a-f]+", instance.id)
        assert re.fullmatch(r"[0-9.?]*", instance.study_instance_uid)
    assert not Path("/tmp/escaped").exists()  # noqa: S108  that is the point
