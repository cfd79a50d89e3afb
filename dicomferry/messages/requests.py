"""How Celery's worker answers for a batch that did none of its work: failed, in words, without a traceback.

Celery imports this in workers alone, by the name that `broker` gives it.
"""

from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[import-untyped]
from celery.worker.request import Request as CeleryRequest

from dicomferry.errors import NothingDoneError


class Request(CeleryRequest):  # type: ignore[misc]
    """A message being worked on."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Leave the traceback out where it says nothing: the batch ended in order."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, NothingDoneError):
            exc_info.traceback = ""
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
