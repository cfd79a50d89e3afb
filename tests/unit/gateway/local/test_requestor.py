"""What is put right of pynetdicom's requestor: each race is made to happen."""

import threading
from types import SimpleNamespace

from pynetdicom import AE, transport
from pynetdicom.association import MODE_REQUESTOR, Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from gateway.local.requestor import associate, fix_lost_responses
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.ports import free_port


def test_a_reactor_that_is_paused_leaves_the_response_to_the_requestor():
    fix_lost_responses()
    dimse = Association(AE(), MODE_REQUESTOR).dimse
    dimse.msg_queue.put((1, "a response"))
    dimse.assoc._reactor_checkpoint.clear()  # as send_c_store does before it sends
    assert dimse.get_msg(block=False) == (None, None)  # the reactor, which has not noticed yet
    assert dimse.get_msg(block=True) == (1, "a response")
    dimse.assoc._reactor_checkpoint.set()
    dimse.msg_queue.put((3, "a request"))
    assert dimse.get_msg(block=False) == (3, "a request")


def test_a_rejection_is_told_however_late_the_thread_that_asked_comes_to_look(monkeypatch):
    ended = threading.Event()
    close = transport.AssociationSocket.close

    def close_and_tell(sock):
        close(sock)
        if sock.assoc.is_requestor:
            ended.set()

    class Late(threading.Event):
        """That the connection stands: who waits for it looks only when it has ended."""

        def wait(self, timeout=None):
            del timeout
            return ended.wait(30)

    entity = AE("STRANGER")
    entity.add_requested_context(Verification)
    with pynetdicom_scp(require_calling_aet=["PACS"]) as scp:
        monkeypatch.setattr(transport.AssociationSocket, "close", close_and_tell)
        monkeypatch.setattr(transport, "threading", SimpleNamespace(Event=Late))
        association = associate(entity, "127.0.0.1", scp.port, "WS")
    assert association.is_rejected
    assert not association.is_established


def test_where_nobody_answers_nothing_was_rejected():
    entity = AE("STRANGER")
    entity.add_requested_context(Verification)
    association = associate(entity, "127.0.0.1", free_port(), "WS")
    assert not association.is_rejected
    assert not association.is_established
