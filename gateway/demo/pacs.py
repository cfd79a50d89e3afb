"""A small PACS for the demo: an SCU that sends images without transcoding."""

import time
from collections.abc import Callable, Sequence

from pynetdicom import AE

from dicomferry.errors import FerryError
from gateway.demo.samples import Sample
from gateway.local.requestor import associate


def send(samples: Sequence[Sample], port: int, advance: Callable[[], object]) -> dict[str, float]:
    """Send all in one association, with one context for each SOP class and transfer syntax, as a PACS does.

    It calls `advance` after each. Returns when each C-STORE began (time.monotonic()), by SOP Instance UID.

    Raises:
        FerryError: dicomferry does not answer, or answers a failure.
    """
    entity = AE("PACS")
    for pair in {(str(sample.dataset.SOPClassUID), sample.syntax) for sample in samples}:
        entity.add_requested_context(*pair)
    association = associate(entity, "127.0.0.1", port, "FERRY")
    if not association.is_established:
        raise FerryError(f"no association with FERRY at 127.0.0.1:{port}")
    sent = {}
    try:
        for sample in samples:
            sent[sample.uid] = time.monotonic()
            try:
                status = getattr(association.send_c_store(sample.dataset), "Status", None)
            except RuntimeError as error:
                raise FerryError("FERRY has ended the association") from error
            if status != 0x0000:
                answer = "nothing" if status is None else f"status 0x{status:04X}"
                raise FerryError(f"C-STORE of {sample.name} was answered with {answer}")
            advance()
    finally:
        association.release()
    return sent
