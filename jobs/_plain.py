"""The frame of a job that is no stage: one JSON line at the end, one clear line on bad input, the exit code."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ilm_ray.base.errors import UserError


class Parser(argparse.ArgumentParser):
    """Refuses a wrong command line as bad input, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run_plain(job: str, work: Callable[[dict[str, Any]], None]) -> int:
    """`work(summary)` adds its figures as it gets them; prints them, and returns the exit code.

    0: done. 2: bad input (UserError). 1: anything else, with a traceback on stderr.
    """
    summary: dict[str, Any] = {"job": job}
    try:
        work(summary)
        summary["status"] = "done"
        code = 0
    except UserError as error:
        said = str(getattr(error, "cause", error))  # one that was raised in an actor comes with the actor's traceback
        print(f"{job}: {said}", file=sys.stderr)
        summary |= {"status": "refused", "error": said}
        code = 2
    except Exception as error:
        traceback.print_exc()
        summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        code = 1
    sys.stderr.flush()
    print(json.dumps(summary), flush=True)
    return code
