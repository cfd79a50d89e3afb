"""The SCP: listens, admits, receives, until it is told to stop.

One process, one port, any number of called AE titles; a thread pair an association.
"""

import errno
import fcntl
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicomferry.broker import redis_client
from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.events import EventSender, Received
from dicomferry.settings import Settings
from dicomferry.spool import Spool
from ingest.admission import Rejected, admit
from ingest.arrival import Room
from ingest.association import MAXIMUM_PDU, FerryAssociation, FerryServer, Sink
from ingest.contexts import narrow
from ingest.reception import CANNOT_UNDERSTAND, FAULT_OF_OURS, OUT_OF_RESOURCES, Answer, receive, refusal

log = logging.getLogger(__name__)

_GRACE = 4.0  # seconds that associations get to finish once we stop
_FAREWELL = 1.0  # seconds for the A-ABORT of those that did not


def run(settings: Settings) -> None:
    """Receive until SIGINT or SIGTERM; then let associations finish for a few seconds.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    with serving(settings):
        stop.wait()


@contextmanager
def serving(settings: Settings) -> Iterator[FerryServer]:
    """The SCP in threads of this process.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    spool = Spool(settings.spool)
    spool.prepare()
    events = EventSender(redis_client(settings)) if settings.broker else None
    with _alone_on(spool):
        server = _listen(settings, Reception(settings, spool, events))
        _sweep(spool)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="accept", daemon=True)
        thread.start()
        titles = ", ".join(ae.title for ae in settings.ae)
        log.info("Listening on %s port %d as %s", *server.server_address[:2], titles)
        try:
            yield server
        finally:
            server.stop_accepting()
            thread.join()
            _finish(server)
            if events is not None:
                events.close()
            log.info("Stopped")


class Reception:
    """What the SCP answers to a request for an association and to a C-STORE."""

    def __init__(self, settings: Settings, spool: Spool, events: EventSender | None) -> None:
        self.settings = settings
        self.spool = spool
        self.room = Room(spool, settings.ingest.min_free_mb)
        self._events = events

    def on_requested(self, event: evt.Event) -> None:
        """Admit or reject, and say which contexts are accepted."""
        association = cast("FerryAssociation", event.assoc)
        request = cast("A_ASSOCIATE", association.requestor.primitive)
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        address = association.requestor.address or ""
        standing = len(association.server.associations())
        decision = admit(self.settings, calling, called, address, associations=standing)
        if isinstance(decision, Rejected):
            log.warning("Rejected %s at %s: %s", calling, address, decision.why)
            association.acse.send_reject(decision.result, decision.source, decision.reason)
            # It returns when the answer has left; the caller would close the socket before.
            association.kill()
            return
        association.admitted = decision
        association.acceptor.supported_contexts = narrow(
            request.presentation_context_definition_list, decision.ae
        )
        log.info("Accepted %s at %s to %s", calling, decision.host, called)

    def on_store(self, association: FerryAssociation, sink: Sink) -> Answer:
        """Answer a C-STORE, when everything that it brought has been read."""
        try:
            answer = self._answer(association, sink)
        except Exception:
            log.exception("Fault")
            answer = Answer(FAULT_OF_OURS, "fault in dicomferry, see its log")
        if answer.instance is None:
            uid = sink.request.sop_instance_uid if sink.request else "an object"
            log.warning("Refused %s 0x%04X: %s", uid, answer.status, answer.comment)
        elif self._events is not None:
            self._events.send(Received(answer.instance))
            reach("reception.announced")
        return answer

    def _answer(self, association: FerryAssociation, sink: Sink) -> Answer:
        if association.admitted is None or sink.request is None:
            return Answer(CANNOT_UNDERSTAND, "no data set")
        if sink.arrival is None:
            refused = refusal(association.admitted, sink.request)
            return refused or Answer(OUT_OF_RESOURCES, "the association is ending")
        try:
            return receive(self.spool, association.admitted, sink.request, sink.arrival)
        finally:
            association.done(sink.arrival)


def _listen(settings: Settings, reception: Reception) -> FerryServer:
    # pynetdicom would make log lines of every PDU and message, to throw them away.
    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE("DICOMFERRY")
    ae.maximum_pdu_size = MAXIMUM_PDU
    # Counted by `admit`, which knows whom to tell; pynetdicom's own limit must not come first.
    ae.maximum_associations = settings.ingest.max_associations + 1_000_000
    ae.network_timeout = settings.ingest.network_timeout
    host, port = settings.ingest.host, settings.ingest.port
    try:
        return FerryServer(
            ae,
            (host, port),
            reception.spool,
            reception.room,
            requested=reception.on_requested,
            store=reception.on_store,
        )
    except OSError as error:
        raise Misconfigured(f"ingest.port: {_why_not(error, host, port)}") from error


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use; stop the program that listens there "
            "(another dicomferry?) or choose another port"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not ours to use; ports below 1024 need privileges: choose another"
    return f"cannot listen on port {port} of {host}: {error}; ingest.host names an address of this machine"


@contextmanager
def _alone_on(spool: Spool) -> Iterator[None]:
    """Be the one ingest of a spool: another one's unfinished files must not be swept.

    Raises:
        Misconfigured: there is another one.
    """
    with (spool.root / "ingest.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(
                f"spool {spool.root}: another ingest receives into it; stop that one"
            ) from None
        yield


def _sweep(spool: Spool) -> None:
    left = os.listdir(spool.incoming)
    for name in left:
        shutil.rmtree(spool.incoming / name, ignore_errors=True)
    if left:
        log.info("Swept %d unfinished objects of a former run", len(left))


def _finish(server: FerryServer) -> None:
    """Let associations end by themselves, then by an abort, then by closing their sockets."""

    def standing() -> list[FerryAssociation]:
        return [association for association in server.associations() if association.is_established]

    _wait_for(lambda: not standing(), _GRACE)
    for association in standing():
        # It blocks until the A-ABORT has left, which a stuck peer can delay.
        threading.Thread(target=association.abort, daemon=True).start()
    _wait_for(lambda: not standing(), _FAREWELL)
    for association in server.associations():
        association.disconnect()


def _wait_for(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
