"""Label code for the model scorer, round by round (report section 3.2). Needs no Ray; JSON Lines in and out.

    python jobs/label_code.py round --labels L.jsonl --pool P.jsonl --validation V.jsonl --out DIR [--checks N]
    python jobs/label_code.py merge --labels L.jsonl --answers A.jsonl --out NEW.jsonl

`round` trains on the labels and writes DIR/tasks.jsonl (what people should look at), DIR/scorer.npz and DIR/card.json
(agreement per language); the code stage takes DIR as `code.scorer`. People give each task a "tier": low, moderate or
high. `merge` puts their answers into the labels for the next round. Rows: {"id", "language", "text", "tier"}; those of
the pool have no tier, and may be the kept files of a run (`<run>/code/files/quality/kept-*.jsonl.zst`).
Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.data.code.files.scores import TIERS
from jobs.frame.command import Parser, run_verb

if TYPE_CHECKING:
    from ilm_ray.data.code.files.labelling import CodeSample, Round

CARD, SCORER, TASKS = "card.json", "scorer.npz", "tasks.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb, print the JSON line, return the exit code."""
    return run_verb("label_code", _parser(), argv)


def _round(arguments: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.data.code.files.labelling import run_round

    labels, validation = _read(arguments.labels, labelled=True), _read(arguments.validation, labelled=True)
    if not labels or not validation:
        raise UserError(
            f"{arguments.validation if labels else arguments.labels} holds no labels; label some files first"
        )
    done = run_round(labels, _read(arguments.pool, labelled=False), validation, arguments.checks, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        arguments.out / TASKS,
        (
            task.sample._asdict() | {"tier": "", "earlier": task.sample.tier, "proposed": task.proposed}
            | {"confidence": task.confidence, "why": task.why}
            for task in done.tasks
        ),
    )  # fmt: skip
    done.scorer.save(arguments.out / SCORER)
    write_text_atomic(arguments.out / CARD, json.dumps(_card(done, len(labels)), indent=1))
    why = [task.why for task in done.tasks]
    return {
        "labels": len(labels),
        "checks": why.count("check"),
        "revalidations": why.count("revalidate"),
        "agreement": {language: figures.agreement for language, figures in done.agreement.items()},
        "out": str(arguments.out),
    }


def _merge(arguments: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.data.code.files.labelling import merge

    answers = _read(arguments.answers, labelled=True)
    labels, changed = merge(_read(arguments.labels, labelled=True), answers)
    write_jsonl(arguments.out, (sample._asdict() for sample in labels))
    return {"labels": len(labels), "answers": len(answers), "corrected": changed, "out": str(arguments.out)}


def _card(done: "Round", labels: int) -> dict[str, Any]:
    from ilm_ray.data.code.files.scorer import BAR, FEWEST

    return {
        "labels": labels,
        "bar": BAR,
        "fewest_validation_labels": FEWEST,
        "languages": {
            language: {"labels": figures.labels, "agreement": figures.agreement, "passes": figures.passes}
            for language, figures in done.agreement.items()
        },
    }


def _read(path: Path, labelled: bool) -> "list[CodeSample]":
    """Raises UserError where a row has another form."""
    from ilm_ray.data.code.files.labelling import CodeSample

    samples = []
    try:
        for line, row in enumerate(read_jsonl(path), start=1):
            if (
                not isinstance(row, dict)
                or not all(isinstance(row.get(key), str) for key in ("language", "text"))
                or "id" not in row
            ):
                raise UserError(f'{path} line {line}: want {{"id", "language", "text"}}; correct the file')
            if labelled and row.get("tier") not in TIERS:
                raise UserError(f'{path} line {line}: "tier" must be one of {", ".join(TIERS)}; correct the file')
            samples.append(CodeSample(str(row["id"]), row["language"], row["text"], row["tier"] if labelled else ""))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; correct or name another file") from None
    return samples


def _parser() -> Parser:
    parser = Parser(prog="jobs/label_code.py", description="Label code for the model scorer, round by round.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="round|merge")
    training = verbs.add_parser("round", help="train, predict, and say what people should look at")
    for name in ("labels", "pool", "validation", "out"):
        training.add_argument(f"--{name}", type=Path, required=True)
    training.add_argument("--checks", type=int, default=1000, help="confident predictions to look at (default 1000)")
    training.add_argument("--seed", type=int, default=1234)
    training.set_defaults(work=_round)
    merging = verbs.add_parser("merge", help="put people's answers into the labels")
    for name in ("labels", "answers", "out"):
        merging.add_argument(f"--{name}", type=Path, required=True)
    merging.set_defaults(work=_merge)
    return parser


if __name__ == "__main__":
    sys.exit(main())
