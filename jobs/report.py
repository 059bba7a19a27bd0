"""Write the report of a run: `report.html` and TensorBoard event files, from what its stages left behind.

    python jobs/report.py --run-dir DIR

Needs no Ray. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ilm_ray.errors import UserError
from ilm_ray.observe.report import write_report
from ilm_ray.observe.tensorboard import write_tensorboard


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report, print the JSON line, return the exit code."""
    summary: dict[str, str | None] = {"job": "report", "run_dir": None}
    try:
        parser = _Parser(prog="jobs/report.py", description="Write the report of a run.")
        parser.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        run_dir = parser.parse_args(argv).run_dir.absolute()
        summary["run_dir"] = str(run_dir)
        report = write_report(run_dir)
        tensorboard = write_tensorboard(run_dir)
        summary |= {"status": "done", "report": str(report), "tensorboard": str(tensorboard) if tensorboard else None}
        code = 0
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        summary |= {"status": "refused", "error": str(error)}
        code = 2
    except Exception as error:
        traceback.print_exc()
        summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        code = 1
    sys.stderr.flush()
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: {self.prog} --run-dir DIR")


if __name__ == "__main__":
    sys.exit(main())
