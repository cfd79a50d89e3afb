"""The dispatcher's end of the queue of events in Redis, and a canary: without it, events may be lost."""

import logging
import uuid
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from dicomferry.messages import events

log = logging.getLogger(__name__)


class Inbox:
    """Events as text; `answers` is whether Redis did when it was asked last."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._canary = uuid.uuid4().hex
        self.answers = True

    def clear(self) -> None:
        """Drop the events that wait."""
        try:
            self._redis.delete(events.EVENTS_KEY)
        except RedisError as error:
            self.note_silence(error)

    def wait(self, seconds: float, most: int) -> list[bytes]:
        """The next event, for which it waits, and what is there then, at most so many. Raises RedisError."""
        asked = self._redis.pipeline(transaction=False)  # answered together: one wait, not two
        asked.blpop([events.EVENTS_KEY], timeout=seconds)
        asked.lpop(events.EVENTS_KEY, most)
        first, more = asked.execute()
        return [first[1], *(more or [])] if first else more or []

    def waiting(self, most: int) -> list[bytes]:
        """The events that are there already, at most so many. Raises RedisError."""
        found: Any = self._redis.lpop(events.EVENTS_KEY, most)
        return found or []

    def watch(self) -> None:
        """Put a canary into Redis."""
        try:
            self._redis.set(events.CANARY_KEY, self._canary)
        except RedisError as error:
            self.note_silence(error)

    def has_lost_events(self) -> bool:
        """Whether the canary is gone, so that the whole spool must be read. Raises RedisError."""
        # Written each time: a Redis that is full can still be read, but loses events.
        if self._redis.set(events.CANARY_KEY, self._canary, get=True) == self._canary.encode():
            return False
        log.warning("RedisForgot: its canary is gone; reading the whole spool")
        return True

    def note_answer(self) -> None:
        """Redis has answered."""
        if not self.answers:
            log.warning("RedisAnswers")
            self._turn(answers=True)

    def note_silence(self, error: RedisError) -> None:
        """Redis has not answered."""
        if self.answers:
            log.warning("RedisSilent: %s; what is to do waits on the spool", error)
            self._turn(answers=False)

    def _turn(self, *, answers: bool) -> None:
        self.answers = answers
        self._canary = uuid.uuid4().hex  # events may be lost: has_lost_events tells so
