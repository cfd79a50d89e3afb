"""A C-STORE over a socket: what stands on the spool, and what the sender is told."""

import json
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ  # type: ignore[attr-defined]
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import CTImageStorage, MRImageStorage  # type: ignore[attr-defined]
from redis import Redis

from dicomferry.dicom.identifiers import VERIFICATION
from dicomferry.dicom.part10 import read_meta
from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from dicomferry.messages.broker import client_for
from dicomferry.messages.events import EVENTS_KEY, CallerRejected, Received, parse
from dicomferry.spool.digests import digest_of
from tests.support.images.files import fresh_copies, shipped
from tests.support.peers.dcmtk import send
from tests.support.peers.raw import RJ, RQ, association_request, pdu
from tests.support.running.mounts import small_file_system
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.stages.ingesting import Ingest, an_ingest, associated, data_set_of

CT = str(CTImageStorage)


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    with an_ingest(tmp_path) as running:
        yield running


def fragments_of(
    content: bytes, sop_instance_uid: str, sop_class_uid: str = CT, size: int = 16384
) -> list[P_DATA]:
    """A C-STORE of any bytes as the data set, which pynetdicom's own method would not send."""
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = "1.2.3"
    request.DataSet = BytesIO(content)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.command_set.AffectedSOPInstanceUID = UID(sop_instance_uid)
    return list(message.encode_msg(1, size))


def store_bytes(
    association: Association, content: bytes, sop_instance_uid: str, sop_class_uid: str = CT
) -> Dataset:
    """Send such a C-STORE; its response."""
    association._reactor_checkpoint.clear()
    wait_until(lambda: association._is_paused, "the requestor's reactor to pause")
    for fragment in fragments_of(content, sop_instance_uid, sop_class_uid):
        association.dul.send_pdu(fragment)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    answer = Dataset()
    answer.Status = response.Status
    answer.ErrorComment = response.ErrorComment or ""
    return answer


def ct_bytes() -> tuple[bytes, str]:
    path = shipped("CT_small.dcm")
    return data_set_of(path), str(dcmread(path).SOPInstanceUID)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",  # Explicit LE
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "image_dfl.dcm",  # Deflated
        "MR_small_RLE.dcm",
        "JPEG2000.dcm",
        "693_J2KR.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",  # .50
        "JPEG-lossy.dcm",  # .51
        "JPEG-LL.dcm",  # .57 or .70
        "MR_small_jpeg_ls_lossless.dcm",
        "reportsi.dcm",  # no image
    ],
)
def test_the_spool_holds_exactly_the_bytes_sent_in_the_syntax_sent(ingest: Ingest, name: str) -> None:
    source = shipped(name)
    meta = read_meta(source)
    with associated(ingest.port, (meta.sop_class_uid, [meta.transfer_syntax_uid])) as association:
        status = store_bytes(association, data_set_of(source), meta.sop_instance_uid, meta.sop_class_uid)
    assert status.Status == 0x0000, status
    (instance,) = ingest.instances()
    assert ingest.encoded(instance) == data_set_of(source)
    received = ingest.spool.received(instance.id)
    assert read_meta(received).transfer_syntax_uid == meta.transfer_syntax_uid
    assert instance.digest == digest_of(data_set_of(source))
    assert instance.size == len(data_set_of(source))
    expected = dcmread(source)
    assert instance.series_instance_uid == expected.SeriesInstanceUID
    assert dcmread(received).SOPInstanceUID == expected.SOPInstanceUID
    assert ingest.leftovers() == []


def test_dcmsend_sends_a_study_in_its_own_syntaxes(ingest: Ingest, tmp_path: Path) -> None:
    files = [
        *fresh_copies("693_J2KR.dcm", 5, tmp_path / "sent"),
        *fresh_copies("CT_small.dcm", 5, tmp_path / "sent"),
    ]
    sent = send(ingest.port, files)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    # DCMTK encodes lengths anew before it sends, so that its bytes are not the file's; values are.
    sources = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, files)}
    for instance in ingest.instances():
        source = sources.pop(instance.sop_instance_uid)
        received = dcmread(ingest.spool.received(instance.id))
        assert received.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
        assert received.PixelData == source.PixelData
        assert instance.digest == digest_of(ingest.encoded(instance))
    assert not sources
    assert {instance.calling_ae_title for instance in ingest.instances()} == {"PACS"}


def test_the_same_object_sent_twice_is_one_instance_and_success_both_times(ingest: Ingest) -> None:
    for _ in range(2):
        assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
    assert len(ingest.instances()) == 1
    assert ingest.leftovers() == []


def test_an_object_sent_again_after_a_delivery_is_a_new_instance(ingest: Ingest) -> None:
    assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
    (first,) = ingest.instances()
    ingest.spool.mark_delivered(first.id, "ws1", {"status": 0})
    for _ in range(2):
        assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
    assert len(ingest.instances()) == 2


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ("AA", "A"),
        ("ABA", "ABA"),
        ("ABAA", "ABA"),
        ("ABABB", "ABAB"),
        ("ABCBA", "ABCBA"),
        ("AABBAABB", "ABAB"),
    ],
)
def test_what_came_last_under_a_uid_is_delivered_last(tmp_path: Path, sent: str, wanted: str) -> None:
    """A destination keeps the last one that it gets (`dispatcher.duplicates`); two ingests share a spool."""
    with an_ingest(tmp_path) as ingest, an_ingest(tmp_path) as other:
        for number, name in enumerate(sent):
            door = (ingest, other)[number % 2]
            content, uid = ct_bytes()
            with associated(door.port, (CT, [EXPLICIT_LE])) as association:
                assert store_bytes(association, content[:-1] + name.encode(), uid).Status == 0x0000
        pending = sorted(ingest.instances(), key=lambda instance: instance.received_at)
        assert [chr(ingest.encoded(instance)[-1]) for instance in pending] == list(wanted)


def test_another_object_for_another_destination_is_not_between(tmp_path: Path) -> None:
    destinations = [
        {"name": name, "title": "WS", "host": "127.0.0.1", "port": 104} for name in ("ws1", "ws2")
    ]
    routes = [{"calling": "ONE", "to": ["ws1"]}, {"calling": "TWO", "to": ["ws2"]}]
    content, uid = ct_bytes()
    with an_ingest(tmp_path, destination=destinations, route=routes) as ingest:
        for calling, last in (("ONE", b"A"), ("TWO", b"B"), ("ONE", b"A")):
            with associated(ingest.port, (CT, [EXPLICIT_LE]), calling=calling) as association:
                assert store_bytes(association, content[:-1] + last, uid).Status == 0x0000
        assert len(ingest.instances()) == 2


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
def test_a_truncated_data_set_is_quarantined_and_the_sender_knows(ingest: Ingest, keep: float) -> None:
    content, uid = ct_bytes()
    cut = content[: int(len(content) * keep)]
    with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
        answer = store_bytes(association, cut, uid)
    assert answer.Status == 0xC000
    assert "ends early" in answer.ErrorComment
    assert ingest.instances() == []
    (kept,) = ingest.spool.quarantine.iterdir()
    assert data_set_of(kept / "received.dcm") == cut
    assert "ends early" in json.loads((kept / "reason.json").read_text())["reason"]
    assert ingest.leftovers() == []


def test_garbage_is_quarantined_and_the_association_goes_on(ingest: Ingest) -> None:
    content, uid = ct_bytes()
    with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
        assert store_bytes(association, b"this is no DICOM" * 100, uid).Status == 0xC000
        assert store_bytes(association, content, uid).Status == 0x0000
    assert len(list(ingest.spool.quarantine.iterdir())) == 1
    assert len(ingest.instances()) == 1


@pytest.mark.parametrize(
    ("uid", "status"),
    [("../../../etc/passwd", 0xC000), ("1" * 65, 0xC000), ("1.2.3", 0xA900)],
)
def test_a_uid_that_is_none_or_another_is_refused(ingest: Ingest, uid: str, status: int) -> None:
    content, _ = ct_bytes()
    with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
        answer = store_bytes(association, content, uid)
    assert answer.Status == status
    assert answer.ErrorComment
    assert ingest.instances() == []
    assert ingest.leftovers() == []


def test_a_data_set_of_another_sop_class_is_answered_does_not_match(ingest: Ingest) -> None:
    content, uid = ct_bytes()
    with associated(ingest.port, (str(MRImageStorage), [EXPLICIT_LE])) as association:
        assert store_bytes(association, content, uid, str(MRImageStorage)).Status == 0xA900
        assert store_bytes(association, content, uid, CT).Status == 0xA900
    assert ingest.instances() == []


def test_what_no_route_takes_is_refused_and_not_stored(tmp_path: Path) -> None:
    with an_ingest(tmp_path, route=[{"calling": "CT1", "to": ["ws1"]}]) as ingest:
        content, uid = ct_bytes()
        with associated(ingest.port, (CT, [EXPLICIT_LE]), calling="MR1") as association:
            answer = store_bytes(association, content, uid)
        assert answer.Status == 0x0124
        assert answer.ErrorComment == "no route for MR1 to FERRY"
        assert ingest.instances() == []
        assert ingest.leftovers() == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with small_file_system(tmp_path / "tiny", 256 << 10) as folder:
        yield folder


def test_a_disk_that_fills_while_objects_arrive_answers_out_of_resources_until_there_is_room(
    tiny: Path,
) -> None:
    content, uid = ct_bytes()
    with an_ingest(tiny, ingest={"min_free_mb": 0}) as ingest:
        filler = tiny / "filler"
        filler.write_bytes(b"*" * (220 << 10))
        with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
            statuses = [store_bytes(association, content, uid).Status for _ in range(2)]
            filler.write_bytes(b"")
            statuses.append(store_bytes(association, content, uid).Status)
        assert statuses == [0xA700, 0xA700, 0x0000]
        assert len(ingest.instances()) == 1
        assert ingest.leftovers() == []


def test_a_spool_that_has_gone_answers_out_of_resources_and_recovers(ingest: Ingest) -> None:
    content, uid = ct_bytes()
    away = ingest.spool.root / "away"
    with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
        ingest.spool.incoming.rename(away)
        assert store_bytes(association, content, uid).Status == 0xA700
        away.rename(ingest.spool.incoming)
        (ingest.spool.instances).rename(away)
        assert store_bytes(association, content, uid).Status == 0xA700
        away.rename(ingest.spool.instances)
        assert store_bytes(association, content, uid).Status == 0x0000
    assert len(ingest.instances()) == 1
    assert ingest.leftovers() == []


@pytest.mark.parametrize("way", ["abort", "disconnect"])
def test_an_association_that_ends_in_the_middle_leaves_nothing(ingest: Ingest, way: str) -> None:
    content, uid = ct_bytes()
    with associated(ingest.port, (CT, [EXPLICIT_LE])) as association:
        for fragment in fragments_of(content, uid, size=4096)[:4]:
            association.dul.send_pdu(fragment)
        wait_until(ingest.leftovers, "the object to begin to arrive")
        if way == "abort":
            association.abort()
        else:
            assert association.dul.socket is not None
            assert association.dul.socket.socket is not None
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not ingest.leftovers(), "incoming to be empty")
    assert ingest.instances() == []


def test_a_start_sweeps_what_a_killed_ingest_left(tmp_path: Path) -> None:
    incoming = tmp_path / "spool" / "incoming"
    (incoming / "folder").mkdir(parents=True)  # an earlier version's
    (incoming / "folder" / "received.dcm").write_bytes(b"half")
    (incoming / "file").write_bytes(b"half")
    with an_ingest(tmp_path) as ingest:
        assert ingest.leftovers() == []


def test_a_start_sweeps_nothing_that_another_ingest_receives(tmp_path: Path) -> None:
    content, uid = ct_bytes()
    fragments = fragments_of(content, uid, size=4096)
    with an_ingest(tmp_path) as first, associated(first.port, (CT, [EXPLICIT_LE])) as association:
        for fragment in fragments[:4]:
            association.dul.send_pdu(fragment)
        wait_until(first.leftovers, "the object to begin to arrive")
        (first.spool.incoming / f"{'0' * 48}").touch()  # of one that was killed
        with an_ingest(tmp_path) as second:
            assert len(second.leftovers()) == 1
            assert send(second.port, [shipped("MR_small.dcm")]).returncode == 0
            for fragment in fragments[4:]:
                association.dul.send_pdu(fragment)
            wait_until(lambda: len(first.instances()) == 2, "both objects")
        assert first.leftovers() == []


def test_the_dispatcher_is_told_of_what_stands_on_the_spool(tmp_path: Path) -> None:
    with private_redis() as broker, an_ingest(tmp_path, broker=broker) as ingest:
        for _ in range(2):
            assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
        (instance,) = ingest.instances()
        redis: Redis = client_for(broker)
        wait_until(lambda: redis.llen(EVENTS_KEY) == 2, "the events")
        texts = redis.lrange(EVENTS_KEY, 0, -1)
    first, again = map(parse, texts)
    assert isinstance(first, Received)
    assert first.told == instance
    assert again == Received(instance.id)  # its record stands on the spool
    patient = dcmread(shipped("CT_small.dcm"))
    for value in (patient.PatientName, patient.PatientID, patient.AccessionNumber):
        assert not str(value) or str(value).encode() not in texts[0]


def test_the_dispatcher_is_told_of_a_caller_that_was_rejected(tmp_path: Path) -> None:
    with private_redis() as broker, an_ingest(tmp_path, broker=broker) as ingest:
        with associated(ingest.port, (CT, [EXPLICIT_LE]), called="FERY", calling="CT9") as association:
            assert association.is_rejected
        redis: Redis = client_for(broker)
        wait_until(lambda: redis.llen(EVENTS_KEY), "the event")
        told = parse(redis.lindex(EVENTS_KEY, 0))
    assert isinstance(told, CallerRejected)
    assert (told.calling, told.called, told.host) == ("CT9", "FERY", "127.0.0.1")
    assert "FERY" in told.why


def test_another_machine_that_calls_itself_our_health_check_is_told_of(tmp_path: Path) -> None:
    ae = [{"title": "FERRY", "callers": [{"title": "PACS"}]}]
    asked = pdu(RQ, association_request([(1, VERIFICATION, EXPLICIT_LE)], calling=b"HEALTH"))
    with private_redis() as broker, an_ingest(tmp_path, broker=broker, ae=ae) as ingest:
        with socket.create_connection(
            ("127.0.0.1", ingest.port), 60, source_address=("127.0.0.2", 0)
        ) as sock:
            sock.sendall(asked)
            assert sock.recv(1)[0] == RJ
        redis: Redis = client_for(broker)
        wait_until(lambda: redis.llen(EVENTS_KEY), "the event")
        told = parse(redis.lindex(EVENTS_KEY, 0))
    assert isinstance(told, CallerRejected)
    assert (told.calling, told.host) == ("HEALTH", "127.0.0.2")


def test_a_redis_that_is_down_delays_nothing(tmp_path: Path) -> None:
    with an_ingest(tmp_path, broker="redis+socket:///nonexistent/redis.sock") as ingest:
        assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
        assert len(ingest.instances()) == 1


def test_a_private_sop_class_is_taken_where_unknown_ones_are(tmp_path: Path) -> None:
    private = "1.2.826.0.1.3680043.9.9999.1"
    with an_ingest(tmp_path, ae=[{"title": "FERRY", "unknown_sop_classes": True}]) as ingest:
        dataset = dcmread(shipped("CT_small.dcm"))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = private
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        sent = tmp_path / "private.dcm"
        dataset.save_as(sent, enforce_file_format=True)
        with associated(ingest.port, (private, [EXPLICIT_LE, IMPLICIT_LE])) as association:
            status = store_bytes(association, data_set_of(sent), dataset.SOPInstanceUID, private)
        assert status.Status == 0x0000
        (instance,) = ingest.instances()
        assert instance.sop_class_uid == private
        assert ingest.encoded(instance) == data_set_of(sent)
