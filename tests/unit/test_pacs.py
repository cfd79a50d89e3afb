"""The demo's PACS, and what it mends of pynetdicom."""

from pynetdicom import AE
from pynetdicom.association import MODE_REQUESTOR, Association

from dicomferry.pacs import keep_responses


def test_a_reactor_that_is_paused_leaves_the_response_to_the_requestor():
    keep_responses()
    dimse = Association(AE(), MODE_REQUESTOR).dimse
    dimse.msg_queue.put((1, "a response"))
    dimse.assoc._reactor_checkpoint.clear()  # as send_c_store does before it sends
    assert dimse.get_msg(block=False) == (None, None)  # the reactor, which has not noticed yet
    assert dimse.get_msg(block=True) == (1, "a response")
    dimse.assoc._reactor_checkpoint.set()
    dimse.msg_queue.put((3, "a request"))
    assert dimse.get_msg(block=False) == (3, "a request")
