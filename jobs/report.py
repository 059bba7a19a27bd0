"""Write the report of a run, `report.html` and TensorBoard event files, from the files of its stages.

    python jobs/report.py --run-dir DIR

Needs no Ray. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.frame.command import Parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.report.report import write_report
        from ilm_ray.report.tensorboard import write_tensorboard

        parser = Parser(prog="jobs/report.py", description="Write the report of a run.")
        parser.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        run_dir = parser.parse_args(argv).run_dir.absolute()
        summary["run_dir"] = str(run_dir)
        summary["report"] = str(write_report(run_dir))
        tensorboard = write_tensorboard(run_dir)
        summary["tensorboard"] = str(tensorboard) if tensorboard else None

    return run_command("report", work)


if __name__ == "__main__":
    sys.exit(main())
