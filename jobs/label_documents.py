"""Label a sample of a run's documents by a language model and a rubric, and train a classifier on the labels.

    python jobs/label_documents.py --run-dir DIR --rubric fluency|advertising|educational --url http://host:8000/v1
        --model NAME --out labels.jsonl [--sample 2000] [--good-from 3] [--classifier FOLDER]

The model gives 0 to 5 points; --good-from and more are good. Asked again with the same --out the job goes on with the
missing documents. With --classifier a linear classifier is trained on the labels; its threshold and its figures are
then those of your own pages: text.classifiers.<name>.model=FOLDER. The endpoint's key is read from ILM_RAY_OPINION_KEY.
It is sent the documents. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.endpoint import ask
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.data.web.classifiers import NAMES
from ilm_ray.data.web.classifiers.rubric import MOST_POINTS, RUBRICS, Labelled, label, sample
from jobs.frame.command import Parser, run_command

ANSWER_TOKENS = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Label, train if asked to, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        arguments = _parse(argv)
        files = sorted((arguments.run_dir / "text" / "final").glob("kept-*.jsonl.zst"))
        if not files:
            raise UserError(f"{arguments.run_dir} has no documents of stage text; run it, or give another --run-dir")
        documents = sample(files, arguments.sample, arguments.seed)

        def asked(system: str, user: str) -> str:
            return ask(arguments.url, arguments.model, system, user, ANSWER_TOKENS, arguments.seconds)

        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        done = label(documents, arguments.rubric, arguments.good_from, asked, arguments.out, arguments.at_once)
        summary |= {"labels": str(arguments.out), **done._asdict()}
        if done.first_failure is not None:
            print(f"label_documents: {_line(done)}", file=sys.stderr)
        if done.asked and done.unanswered == done.asked:
            raise UserError(f"--url {arguments.url} answered nothing: {done.first_failure}; start it, or name another")
        if arguments.classifier is not None:
            summary |= _train(arguments)

    return run_command("label_documents", work)


def _line(done: Labelled) -> str:
    return f"{done.unanswered} of {done.asked} documents got no answer ({done.first_failure}); run it again to ask them"


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.data.web.classifiers.labels import read_labels, split
    from ilm_ray.data.web.classifiers.model import train_linear
    from ilm_ray.report.cards import write_card_page

    out, made_from = arguments.out, {"rubric": arguments.rubric, "model": arguments.model}
    made_from |= {"good_from": arguments.good_from, "files": {out.name: sha256_of(out)}}
    parts = split(read_labels(out))
    card = train_linear(arguments.name, parts, arguments.classifier, arguments.seed, made_from)
    page = write_card_page(arguments.classifier)
    return {"card": str(page), "threshold": card["threshold"], **card["held_out"]["all"]}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="jobs/label_documents.py", description="Label documents by a language model and a rubric.")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of a run whose stage text is finished")
    parser.add_argument("--rubric", choices=RUBRICS, required=True)
    parser.add_argument("--url", required=True, help="base of an OpenAI-compatible API, such as http://host:8000/v1")
    parser.add_argument("--model", required=True, help="its name for the model")
    parser.add_argument("--out", type=Path, required=True, help="labels, .jsonl")
    parser.add_argument("--sample", type=int, default=2000, help="documents")
    parser.add_argument("--good-from", type=int, default=3, help="points of a good document")
    parser.add_argument("--at-once", type=int, default=16, help="requests under way")
    parser.add_argument("--seconds", type=float, default=120.0, help="for an answer, attempts included")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--classifier", type=Path, help="folder that gets a classifier trained on the labels")
    names = ", ".join(NAMES)
    parser.add_argument("--name", help=f"what the classifier scores: one of {names}, or your own word; the rubric's")
    arguments = parser.parse_args(argv)
    if arguments.out.suffix != ".jsonl":
        raise UserError(f"--out {arguments.out}: labels are a .jsonl file; give it that ending")
    if not 1 <= arguments.good_from <= MOST_POINTS:
        raise UserError(f"--good-from {arguments.good_from} lies outside 1 to {MOST_POINTS}; correct it")
    if min(arguments.sample, arguments.at_once, arguments.seconds) <= 0:
        raise UserError("--sample, --at-once and --seconds must be above zero; correct them")
    arguments.name = arguments.name or {"advertising": "advertisement"}.get(arguments.rubric, arguments.rubric)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
