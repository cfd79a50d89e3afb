"""Publishes batches to Celery, and lists those that still wait there."""

import json
import logging
from collections.abc import Iterator

from celery import Celery
from redis import Redis

from dicomferry.messages import batches
from dicomferry.messages.batches import Batch, DeliverBatch, ProbeBatch, TranscodeBatch

log = logging.getLogger(__name__)

_TASKS: dict[type[Batch], tuple[str, str]] = {
    TranscodeBatch: (batches.TRANSCODE, batches.TRANSCODE_QUEUE),
    DeliverBatch: (batches.DELIVER, batches.DELIVER_QUEUE),
    ProbeBatch: (batches.PROBE, batches.DELIVER_QUEUE),
}
_QUEUES = (batches.TRANSCODE_QUEUE, batches.DELIVER_QUEUE)


class Publisher:
    """The sending end of Celery; a batch's id is its Celery task's id."""

    def __init__(self, app: Celery, redis: Redis) -> None:
        self._app = app
        self._redis = redis

    def publish(self, batch: Batch, text: str) -> None:
        """Queue a batch once; Flower shows `text` as its arguments. Raises what kombu and redis raise."""
        name, queue = _TASKS[type(batch)]
        self._app.send_task(
            name,
            kwargs=batch.to_message(),
            task_id=batch.id,
            queue=queue,
            argsrepr=text,
            kwargsrepr="{}",
            retry=False,
        )

    def queued(self) -> set[str]:
        """Ids of the batches that no worker has fetched. Raises RedisError."""
        return {task for queue in _QUEUES for task in self._ids(queue)}

    def _ids(self, queue: str) -> Iterator[str]:
        # A queue of kombu's Redis transport is a list of JSON messages; ours are few and small.
        for text in self._redis.lrange(queue, 0, -1):
            try:
                yield json.loads(text)["headers"]["id"]
            except (ValueError, KeyError, TypeError):
                log.warning("StrangeMessage queue=%s: not one of ours", queue)
