"""A reward function's process: requests in, verdicts out, a JSON line each, until the requests end.

`python -m ilm_ray.evaluation.verifiers.child FD FOLDER`, its first line on stdin {"by": ..., "options": {...}}.
Verdicts go to file descriptor FD; the function's output goes nowhere, and it has nothing to read.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.verifiers.named import RewardFunction, parts_of, reward_function

_SET_PDEATHSIG = 1
_REASON_CHARS = 300


def main() -> None:
    """Answer until the requests end."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    requests, verdicts = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for end in (0, 1, 2):
        os.dup2(nothing, end)
    sys.path.insert(0, sys.argv[2])

    def say(verdict: dict[str, Any]) -> None:
        verdicts.write(json.dumps(verdict) + "\n")
        verdicts.flush()

    first = json.loads(requests.readline())
    try:
        function = reward_function(first["by"])
    except UserError as error:
        say({"why": str(error)})
        return
    say({"parts": {}})
    for line in requests:
        say(_verdict(function, first["options"], json.loads(line)))


def _verdict(function: RewardFunction, options: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    try:
        value = function(request["prompt"], request["answer"], request["metadata"], **options)
        return {"parts": parts_of(value)}
    except Exception as error:  # anybody's code: what it raises costs its answer
        return {"why": f"{type(error).__name__}: {error}"[:_REASON_CHARS]}


if __name__ == "__main__":
    main()
