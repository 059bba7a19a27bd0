"""Lay out published benchmark files as OpenCompass reads them.

    python jobs/benchmark_data.py PUBLISHED ROOT

PUBLISHED: a folder with the repositories' files (docs/evaluation.md names them); ROOT: gets `data/`, and is then the
folder for benchmarks.data. Needs no Ray. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.evaluation.data import write_data
from jobs.frame.command import Parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Lay out, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        parser = Parser(prog="jobs/benchmark_data.py", description="Benchmarks in OpenCompass's layout.")
        parser.add_argument("published", type=Path)
        parser.add_argument("root", type=Path)
        arguments = parser.parse_args(argv)
        for path in (written := write_data(arguments.published, arguments.root)):
            print(path)
        summary |= {"root": str(arguments.root), "written": len(written)}

    return run_command("benchmark_data", work)


if __name__ == "__main__":
    sys.exit(main())
