"""The process of a section: measures its cases in order and writes a line for each as soon as it has it.

Lines are JSON: {"cases": [names]}, then for each case {"begin": number, "deadline_s": seconds} and {"row": figures}. It
ends itself after a failed case, for the device may be in any state then; the runner starts the next process.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Where, attempt, one_line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("where", help="JSON of `Where`")
    parser.add_argument("lines", type=Path)
    parser.add_argument("first", type=int, help="number of the first case to measure")
    arguments = parser.parse_args()
    fields = json.loads(arguments.where)
    where = Where(**fields | {"steps": tuple(fields["steps"])})

    def write(line: dict[str, Any]) -> None:
        with arguments.lines.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")

    try:
        cases = importlib.import_module(arguments.module).cases(where)
    except ImportError as error:
        write({"skipped": f"not installed: {one_line(error)}"})
        return 0
    write({"cases": [case.name for case in cases]})
    for number, case in enumerate(cases[arguments.first :], arguments.first):
        write({"begin": number, "deadline_s": case.deadline_s})
        started = time.monotonic()
        figures = attempt(case)
        write({"row": {"case": case.name, "seconds": round(time.monotonic() - started, 2), **figures}})
        if "failed" in figures:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
