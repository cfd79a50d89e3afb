"""A small PACS for the demo: an SCU that sends images as they are."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import AE
from pynetdicom.dimse import DIMSEServiceProvider

from dicomferry.errors import FerryError
from dicomferry.samples import Sample

_take = DIMSEServiceProvider.get_msg


def keep_responses() -> None:
    """Keep pynetdicom 3.0.4's reactor from taking the response that its own requestor waits for.

    It says that it is paused a moment before it is: a request sent in that moment is answered, the reactor
    drops the answer as nothing that it serves, and the requestor waits until its timeout. On a busy machine
    that was seen once in a few thousand C-STOREs.
    """

    def get_msg(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        paused = not provider.assoc._reactor_checkpoint.is_set()  # noqa: SLF001  there is no other door
        return (None, None) if paused and not block else _take(provider, block)

    DIMSEServiceProvider.get_msg = get_msg  # type: ignore[method-assign, assignment]


def send(samples: Sequence[Sample], port: int, advance: Callable[[], object]) -> dict[str, float]:
    """Store all in one association with one context for each SOP class and transfer syntax, as a PACS does.

    `advance` is called after each. Returns when each C-STORE began (time.monotonic()), by SOP Instance UID.

    Raises:
        FerryError: dicomferry does not answer, or with a failure.
    """
    keep_responses()
    entity = AE("PACS")
    for pair in {(str(sample.dataset.SOPClassUID), sample.syntax) for sample in samples}:
        entity.add_requested_context(*pair)
    association = entity.associate("127.0.0.1", port, ae_title="FERRY")
    if not association.is_established:
        raise FerryError(f"no association with FERRY at 127.0.0.1:{port}")
    sent = {}
    try:
        for sample in samples:
            sent[sample.uid] = time.monotonic()
            status = getattr(association.send_c_store(sample.dataset), "Status", None)
            if status != 0x0000:
                answer = "nothing" if status is None else f"status 0x{status:04X}"
                raise FerryError(f"C-STORE of {sample.name} was answered with {answer}")
            advance()
    finally:
        association.release()
    return sent
