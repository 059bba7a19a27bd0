"""A round's answers as PPO left them: one Parquet file an iteration, `<stage>/rollouts/iteration-NNNNNN.parquet`."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from ilm_ray.alignment.online.hacking import Answer
from ilm_ray.base.errors import UserError

COLUMNS = ("prompt_id", "domain", "response", "score", "version", "iteration")  # all columns that are read


def read_answers(stage: Path, decode: Callable[[list[int]], str]) -> list[Answer]:
    """All answers of the PPO run in folder `stage`, in the order of iterations. decode: token ids -> plain text.

    Raises UserError where there are none or a file lacks a column.
    """
    files = sorted((stage / "rollouts").glob("iteration-*.parquet"))
    if not files:
        raise UserError(f"{stage / 'rollouts'} holds no rollouts; remove {stage} and run PPO again")
    answers = []
    for path in files:
        missing = set(COLUMNS) - set(pq.read_schema(path).names)
        if missing:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}; remove {stage} and run PPO again")
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        answers += [
            Answer(
                row["prompt_id"], row["domain"], row["iteration"], row["version"], decode(row["response"]), row["score"]
            )
            for row in rows
            if not math.isnan(row["score"])  # a reward function gave no verdict
        ]
    return answers


def windows(answers: Sequence[Answer], share: float) -> tuple[list[Answer], list[Answer]]:
    """The answers of the first and of the last `share` of the iterations, without those of the SFT model itself."""
    trained = [a for a in answers if a.version > 0]
    if not trained:
        return [], []
    first, last = min(a.iteration for a in trained), max(a.iteration for a in trained)
    width = max(1, int(share * (last - first + 1)))
    early = [a for a in trained if a.iteration < first + width]
    late = [a for a in trained if a.iteration > last - width]
    return early, late
