"""A whole dicomferry under load and under attack: python tests/faults/soak.py --minutes 10 --seed 1

Says what is done, and at the end a summary in JSON. Exit 1 where a promise was broken: then the folder keeps
the journal of both ends, the logs and the spool. Several may run at once.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.faults import hostile
from tests.support.faults.history import (
    HOSTILE,
    Arrived,
    Fault,
    History,
    Journal,
    Sent,
    Violation,
    duplicates,
    violations,
)
from tests.support.faults.nemesis import Nemesis
from tests.support.faults.siege import SiegedSite, SmallDisk, answers
from tests.support.faults.traffic import OddReceiver, Pacs, Receiver
from tests.support.peers.scps import ends_after, relay
from tests.support.peers.wire import Wire
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until

RECEIVERS = {
    "plain": ["uncompressed"],
    "rle": ["rle", "ImplicitVRLittleEndian"],
    "jls": ["JPEGLSLossless", "ExplicitVRLittleEndian"],
    "any": ["all"],
    "odd": ["uncompressed"],
}
_HABIT = 5  # objects after which the odd receiver closes each association
_DISK_MB = 128
_HOSTILE = 12  # one object among so many is meant to hurt the others


class Battlefield:
    """Sender, receivers, wires and the site between them."""

    def __init__(self, folder: Path, seed: int, per_second: float, say: Callable[[str], None]) -> None:
        self.folder, self.seed, self.say = folder, seed, say
        self._per_second = per_second
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def _enter(self, stack: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.folder / "journal.jsonl")
        self.odd = OddReceiver("odd", RECEIVERS["odd"], self.journal)
        self.receivers = {
            name: stack.enter_context(self.odd if name == "odd" else Receiver(name, syntaxes, self.journal))
            for name, syntaxes in RECEIVERS.items()
        }
        self.associations = {"any": 2}
        ports = {name: receiver.port for name, receiver in self.receivers.items()}
        ports["odd"] = stack.enter_context(relay(ports["odd"], ends_after(_HABIT, "closes")))
        self.wires = {name: stack.enter_context(Wire(port)) for name, port in ports.items()}
        destinations = [
            destination(
                name, wire.port, title=name.upper(), timeout=8,
                max_associations=self.associations.get(name, 1), max_attempts=3, retry_after=2,
                transfer_syntaxes="negotiate" if name == "any" else RECEIVERS[name],
            )
            for name, wire in self.wires.items()
        ]  # fmt: skip
        site = self.folder / "site"
        self.disk = stack.enter_context(SmallDisk(site / "spool", _DISK_MB))
        routes = [
            {"calling": "PACS", "to": list(self.wires)},
            # Instances of one destination leave the spool by their delivery, others by a marker for each.
            {"calling": "SINGLE", "to": ["plain"]},
        ]
        self.site = SiegedSite(site, *destinations, route=routes)
        self.site.environment["DICOMFERRY_INGEST__PROCESSES"] = "2"
        # What is refused and parked needs no waiting for; timeouts below the nemesis's longer pauses.
        stack.enter_context(self.site)
        self.inlet = stack.enter_context(Wire(self.site.port))
        self.pacs = stack.enter_context(
            Pacs(
                self.folder / "objects",
                self.inlet.port,
                self.journal,
                seed=self.seed,
                per_second=self._per_second,
                other=hostile.make,
                one_in=_HOSTILE,
            )
        )
        self.single = stack.enter_context(
            Pacs(
                self.folder / "single",
                self.inlet.port,
                self.journal,
                seed=self.seed + 1000,
                per_second=self._per_second / 2,
                title="SINGLE",
                only="plain",
            )
        )
        self.nemesis = Nemesis(
            self.site, self.wires, self.inlet, self.disk, journal=self.journal, say=self.say
        )

    def __exit__(self, *error: object) -> None:
        self.nemesis.stop()
        self.nemesis.heal()
        self._stack.close()
        self.journal.close()

    def history(self) -> History:
        """What has been seen until now."""
        parked, left = self.site.on_spool()
        return History(
            {name: frozenset(receiver.accepts) for name, receiver in self.receivers.items()},
            self.associations,
            self.journal.of(Sent),
            self.journal.of(Arrived),
            self.journal.of(Fault),
            parked,
            left,
        )

    def attack(self, seconds: float, pause: float, hands: int) -> None:
        """Strike for so long, with so many hands at once."""
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(
                target=self.nemesis.run, args=(self.seed * 100 + hand, until, pause * hands), daemon=True
            )
            for hand in range(hands)
        ]
        for thread in threads:
            thread.start()
        said = 0.0
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                self.say(self.progress())

    def rest(self, seconds: float) -> None:
        """Send on for so long with all whole: nothing but hostile objects may now keep others waiting."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(30.0, max(until - time.monotonic(), 0.1)))
            self.say(f"at rest: {self.progress()}")

    def progress(self) -> str:
        acknowledged = {s.uid for s in self.journal.of(Sent) if s.status == 0}
        return (
            f"{len(acknowledged)} acknowledged, {len(self.unanswered)} not yet, "
            f"{len(self.journal.of(Arrived))} arrived, {len(self.site.instances())} on the spool"
        )

    @property
    def unanswered(self) -> set[str]:
        """What its sender sends again until it is answered with success."""
        return self.pacs.unanswered | self.single.unanswered

    def forget(self) -> None:
        """Let Redis forget everything, so that the whole spool is read anew, not a shard a second."""
        redis = self.site.redis()
        wait_until(lambda: answers(redis), "Redis", 60)  # the last blow may have been for it
        redis.flushall()

    def settle(self, patience: float) -> None:
        """All is whole: wait until nothing is left to be done, as long as something moves."""
        self.nemesis.heal()
        self.odd.is_mended = True
        self.pacs.make_no_more()
        self.single.make_no_more()
        seen, moved, said = None, time.monotonic(), time.monotonic()
        while time.monotonic() - moved < patience:
            _, left = self.site.on_spool()
            now = (len(left), len(self.unanswered))
            if now == (0, 0):
                return
            if now != seen:
                seen, moved = now, time.monotonic()
            if time.monotonic() - said > 30:
                said = time.monotonic()
                self.say(f"healing: {self.progress()}, {len(left)} deliveries to be made")
            time.sleep(0.5)


def summary(field: Battlefield, history: History, broken: list[Violation], seconds: float) -> dict[str, Any]:
    """What happened, in figures."""
    acknowledged = {s.uid for s in history.sent if s.status == 0}
    return {
        "seed": field.seed,
        "seconds": round(seconds),
        "sent": len({s.uid for s in history.sent}),
        "attempts": len(history.sent),
        "acknowledged": len(acknowledged),
        "arrived": len(history.arrived),
        "delivered": len({(a.uid, a.destination) for a in history.arrived}),
        "duplicates": duplicates(history),
        "hostile": sum(s.pixels == HOSTILE for s in history.sent if s.status == 0),
        "parked": dict(Counter(p.reason for p in history.parked)),
        "parked_deliveries": len(history.parked),
        "faults": dict(sorted(Counter(f.kind for f in history.faults).items())),
        "refused": dict(Counter(f"0x{s.status:04X}" for s in history.sent if s.status)),
        "losses": sum(v.rule == "lost" for v in broken),
        "violations": dict(Counter(v.rule for v in broken)),
        "litter": field.site.litter(),
        "tracebacks": field.site.logs().count("Traceback (most recent call last)"),
    }


def run(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """One soak; its summary."""
    began = time.monotonic()
    with Battlefield(folder, given.seed, given.rate, say) as field:
        say(f"ready after {time.monotonic() - began:.0f} s; {folder}")
        field.attack(60 * given.minutes, given.pause, given.hands)
        say(f"healing: {field.progress()}")
        field.nemesis.heal()
        if given.hurry:
            field.forget()
        field.rest(given.rest)
        field.settle(given.patience)
        history = field.history()
        broken = violations(history)
        for violation in broken[:50]:
            say(f"VIOLATION {violation.rule} {violation.uid} {violation.destination}: {violation.words}")
        if broken and field.disk.mounted:
            shutil.copytree(field.site.spool, folder / "spool-left", dirs_exist_ok=True)
        return summary(field, history, broken, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults; healing comes on top")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="default: a new one under the temporary folder")
    parser.add_argument("--rate", type=float, default=4.0, help="objects sent a second")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between faults, on average")
    parser.add_argument("--hands", type=int, default=2, help="faults that may overlap")
    parser.add_argument(
        "--patience", type=float, default=700.0, help="seconds without a move that end the healing"
    )
    parser.add_argument(
        "--rest", type=float, default=90.0, help="seconds after the faults in which objects are sent on"
    )
    parser.add_argument("--hurry", action="store_true", help="let the spool be read anew once all is whole")
    given = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {line}", flush=True)

    folder = (given.folder or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    result = run(folder, given, say)
    print(json.dumps(result, indent=2))
    if result["violations"]:
        print(f"everything is in {folder}", file=sys.stderr)
        return 1
    if given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
