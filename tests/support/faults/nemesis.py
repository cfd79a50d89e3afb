"""What is done to a dicomferry under load, by chance but from a seed: each fault is written down."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from redis.exceptions import RedisError

from tests.support.faults.history import Fault, Journal
from tests.support.faults.siege import CONTINUE, KILL, STOP, SiegedSite, SmallDisk
from tests.support.peers.wire import Wire

PARTS = ("ingest", "dispatcher", "worker", "forwarder", "redis")
_KEYS = (
    "dicomferry:events",
    "dicomferry:canary",
    "dicomferry:status",
    "unacked",
    "unacked_index",
    "transcode",
    "deliver",
)


class Nemesis:
    """Chooses and does, one fault at a time for each thread that calls `strike`."""

    def __init__(
        self, site: SiegedSite, wires: Mapping[str, Wire], inlet: Wire, disk: SmallDisk, *, journal: Journal,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._site, self._wires, self._inlet = site, wires, inlet
        self._disk, self._journal, self._say = disk, journal, say
        self._stopped: set[int] = set()
        self._alone = threading.Lock()  # held by what must not meet itself or an `up` that is gone
        self._over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.faults: list[tuple[str, int, Callable[[random.Random], None]]] = [
            *((f"kill-{part}", 3, self._killer(part)) for part in PARTS),
            ("kill-child", 3, self._kill_child),
            *((f"stop-{part}", 2, self._stopper(part)) for part in PARTS),
            ("stop-child", 1, self._stop_child),
            ("kill-up", 1, self._kill_up),
            ("flushall", 3, self._flush),
            ("delete-key", 4, self._delete_key),
            ("redis-full", 2, self._redis_full),
            ("reset", 4, self._reset),
            ("cut-answer", 5, self._cut_answer),
            ("cut-object", 3, self._cut_object),
            ("hole", 2, self._hole),
            ("disk-full", 2 if disk.mounted else 0, self._fill),
            ("clock", 3, self._jump),
        ]

    def run(self, seed: int, until: float, pause: float) -> None:
        """Strike until then (time.monotonic()), `pause` seconds apart on average."""
        chance = random.Random(seed)
        weights = [weight for _, weight, _ in self.faults]
        while time.monotonic() < until and not self._over.is_set():
            name, _, strike = chance.choices(self.faults, weights)[0]
            self.strike(name, strike, chance)
            self._over.wait(min(chance.expovariate(1 / pause), 4 * pause))

    def strike(self, name: str, do: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            do(chance)
            self.counts[name] += 1
        except (AssertionError, OSError, RedisError, IndexError) as error:
            self._say(f"  {name} was not possible: {type(error).__name__} {str(error)[:80]}")

    def stop(self) -> None:
        self._over.set()

    def heal(self) -> None:
        """Take back whatever still lasts."""
        self._site.signal(CONTINUE, *self._stopped)
        for part in PARTS:
            self._site.signal(CONTINUE, *self._site.processes(part))
        for wire in (*self._wires.values(), self._inlet):
            wire.spare()
        self._disk.free()
        self._site.clock.write_text("0")
        with suppress(RedisError, OSError, AssertionError):
            self._site.redis().config_set("maxmemory", 0)

    def _note(self, kind: str, touched: tuple[str, ...], began: float, at_most: int | None = 1) -> None:
        ended = time.monotonic()
        self._say(f"  {kind} {' '.join(touched)} {ended - began:.1f} s")
        self._journal.add(Fault(kind, touched, began, ended, at_most))

    # Processes

    def _killer(self, part: str) -> Callable[[random.Random], None]:
        def kill(chance: random.Random) -> None:
            pids = self._site.processes(part)
            # As the kernel does when memory runs out: one of them, or with all that it has forked.
            victims = pids[:1] if chance.random() < 0.5 else pids
            began = time.monotonic()
            self._site.signal(KILL, victims[0], *victims[1:])
            self._note(f"kill-{part}", (part,), began)

        return kill

    def _kill_child(self, chance: random.Random) -> None:
        part, child = self._child(chance)
        began = time.monotonic()
        self._site.signal(KILL, child)
        self._note("kill-child", (part,), began)

    def _child(self, chance: random.Random) -> tuple[str, int]:
        """One of those that a part has forked."""
        part = chance.choice(("worker", "ingest"))
        return part, chance.choice(self._site.processes(part)[1:])

    def _stopper(self, part: str) -> Callable[[random.Random], None]:
        def stop(chance: random.Random) -> None:
            pids = self._site.processes(part)
            self._pause(f"stop-{part}", part, pids[:1] if chance.random() < 0.5 else pids, chance)

        return stop

    def _stop_child(self, chance: random.Random) -> None:
        part, child = self._child(chance)
        self._pause("stop-child", part, [child], chance)

    def _pause(self, kind: str, part: str, pids: list[int], chance: random.Random) -> None:
        assert pids, f"no {part} runs"
        began = time.monotonic()
        self._stopped.update(pids)
        self._site.signal(STOP, *pids)
        try:
            self._over.wait(chance.choice((0.5, 2.0, 8.0, 20.0)))  # the longer ones outlast every timeout
        finally:
            self._site.signal(CONTINUE, *pids)
            self._stopped.difference_update(pids)
        self._note(kind, (part,), began)

    def _kill_up(self, chance: random.Random) -> None:
        del chance
        with self._alone:
            began = time.monotonic()
            self._site.kill_up()
            self._site.start()
            self._note("kill-up", ("up", "forwarder", *PARTS), began)

    # Redis

    def _flush(self, chance: random.Random) -> None:
        del chance
        began = time.monotonic()
        self._site.redis().flushall()
        self._note("flushall", ("redis",), began)

    def _delete_key(self, chance: random.Random) -> None:
        redis = self._site.redis()
        began = time.monotonic()
        keys = sorted({key.decode() for key in redis.scan_iter()} | set(_KEYS))
        key = chance.choice(keys)
        redis.delete(key)
        self._note("delete-key", ("redis", key), began)

    def _redis_full(self, chance: random.Random) -> None:
        redis = self._site.redis()
        began = time.monotonic()
        redis.config_set("maxmemory", 1)
        try:
            self._over.wait(chance.uniform(1, 8))
        finally:
            redis.config_set("maxmemory", 0)
        self._note("redis-full", ("redis",), began)

    # Wires

    def _a_wire(self, chance: random.Random) -> tuple[str, Wire]:
        wires = {f"wire:{name}": wire for name, wire in self._wires.items()} | {"wire:ingest": self._inlet}
        return chance.choice(sorted(wires.items()))

    def _reset(self, chance: random.Random) -> None:
        name, wire = self._a_wire(chance)
        began = time.monotonic()
        wire.reset()
        self._note("reset", (name,), began)

    def _cut_answer(self, chance: random.Random) -> None:
        name, wire = self._a_wire(chance)
        self._cut("cut-answer", name, wire, wire.cut_next_answer)

    def _cut_object(self, chance: random.Random) -> None:
        name, wire = self._a_wire(chance)
        self._cut("cut-object", name, wire, wire.cut_next_object)

    def _cut(self, kind: str, name: str, wire: Wire, arm: Callable[[], None]) -> None:
        began, before = time.monotonic(), len(wire.cuts)
        arm()
        while len(wire.cuts) == before and time.monotonic() < began + 5 and not self._over.is_set():
            time.sleep(0.02)
        wire.disarm()
        self._note(kind, (name,), began)

    def _hole(self, chance: random.Random) -> None:
        name, wire = self._a_wire(chance)
        began = time.monotonic()
        wire.hole = True
        self._over.wait(chance.choice((1.0, 5.0, 15.0)))
        wire.hole = False
        self._note("hole", (name,), began)

    # The machine

    def _fill(self, chance: random.Random) -> None:
        began = time.monotonic()
        self._disk.fill()
        self._over.wait(chance.uniform(1, 6))
        self._disk.free()
        self._note("disk-full", ("spool",), began, at_most=None)

    def _jump(self, chance: random.Random) -> None:
        began = time.monotonic()
        jump = chance.choice((-86400, -7200, -30, 30, 7200, 86400)) * chance.uniform(0.5, 1)
        self._site.clock.write_text(f"{jump:.0f}")
        self._note("clock", (f"{jump:+.0f}s",), began)
