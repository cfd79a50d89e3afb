"""What a soak's journal says of one object: python tests/faults/explain.py FOLDER UID"""

import json
import sys
from pathlib import Path


def main() -> None:
    entries = [json.loads(line) for line in (Path(sys.argv[1]) / "journal.jsonl").read_text().splitlines()]
    own = [e for e in entries if e.get("uid") == sys.argv[2]]
    times = [e.get("at", e.get("began")) for e in own]
    near = [
        e
        for e in entries
        if e["entry"] == "Fault" and e["began"] < max(times) + 15 and e["ended"] > min(times) - 5
    ]
    start = min(e.get("at", e.get("began")) for e in entries)
    for entry in sorted(own + near, key=lambda e: e.get("at", e.get("began"))):
        times = [f"{entry[key] - start:8.2f}" for key in ("at", "began", "ended") if key in entry]
        rest = {
            k: v
            for k, v in entry.items()
            if k not in {"at", "began", "ended", "entry", "uid", "pixels", "digest"}
        }
        print(*times, entry["entry"], *rest.values())


if __name__ == "__main__":
    main()
