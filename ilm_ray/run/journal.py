"""The run's journal: one JSON line an event in `journal.jsonl`, the same for people on stderr."""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends events; a reader (report, explain) finds each event with its time and its reason."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def event(self, kind: str, **fields: Any) -> None:
        """Record an event and show it. `kind` is a verb: run, skip, done, recover, ..."""
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"time": round(time.time(), 3), "kind": kind, **fields}, ensure_ascii=False) + "\n")
        shown = "  ".join(f"{key}={value}" for key, value in fields.items())
        print(f"[{time.strftime('%H:%M:%S')}] {kind:5s} {shown}", file=sys.stderr, flush=True)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All events; a last line cut by a crash is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
