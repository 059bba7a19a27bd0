"""Train a classifier of Safe or High-quality from labelled texts: a folder with model, card.json and card.html.

    python jobs/train_classifier.py --name toxicity --out DIR LABELS [LABELS ...] [--test FILE]
        [--text-column text] [--label-column label] [--language-column language] [--good VALUE]...
        [--backend linear | --backend bert --base FOLDER_OR_HUB_ID [--epochs N] [--lr X] [--workers N]
         | --backend fasttext --base FILE.bin --good-label WORD]

LABELS: .jsonl, .csv or .tsv, plain or .gz or .zst, with a text and a label, 1 good and 0 bad, or each --good names a
value that means good. One fifth of the texts, chosen by their hash, is held out unless --test names a file. The web
text job uses the folder through text.classifiers.<name>.model. A model of somebody else gets its threshold and its
figures from your labels: a fastText file, or by --epochs 0 an encoder with two classes (class 1 is good) or with one
number (regression). Exit codes: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.config import load_config
from ilm_ray.data.web.classifiers import NAMES
from ilm_ray.data.web.classifiers.labels import Columns, read_labels, split
from jobs.frame.cluster import LocalRay
from jobs.frame.command import Parser, run_command

if TYPE_CHECKING:
    from ilm_ray.data.web.classifiers.card import Card


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.report.cards import write_card_page

        arguments = _parse(argv)
        summary["out"] = str(arguments.out)
        card = _train(arguments)
        page = write_card_page(arguments.out)
        figures = {"threshold": card["threshold"], **card["held_out"]["all"]}
        summary |= {"name": card["name"], "card": str(page), **figures}

    return run_command("train_classifier", work)


def _train(arguments: argparse.Namespace) -> "Card":
    columns = Columns(
        arguments.text_column,
        arguments.label_column,
        arguments.language_column,
        frozenset(arguments.good) if arguments.good else None,
    )
    read = [read_labels(path, columns) for path in arguments.labels]
    parts = split(sum(read[1:], read[0]), read_labels(arguments.test, columns) if arguments.test else None)
    files = [*arguments.labels, *([arguments.test] if arguments.test else [])]
    made_from = {"files": {path.name: sha256_of(path) for path in files}}
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --out {arguments.out}: {error.strerror or error}; choose another") from None
    if arguments.backend == "linear":
        from ilm_ray.data.web.classifiers.model import train_linear

        return train_linear(arguments.name, parts, arguments.out, arguments.seed, made_from)
    if arguments.backend == "fasttext":
        from ilm_ray.data.web.classifiers.model import bring_fast_text

        base = Path(arguments.base)
        return bring_fast_text(arguments.name, base, arguments.good_label, parts, arguments.out, made_from)
    from actors.classifier import train_bert
    from ilm_ray.data.web.classifiers.bert import BertSettings

    settings = BertSettings(arguments.base, arguments.seed, arguments.epochs, arguments.lr)
    with LocalRay(load_config("nano", None, ["ray.dashboard=false"])):
        return train_bert(arguments.name, parts, arguments.out, settings, made_from, arguments.workers)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="jobs/train_classifier.py", description="Train a classifier from labelled texts.")
    parser.add_argument("labels", nargs="+", type=Path, help=".jsonl, .csv or .tsv, plain, .gz or .zst")
    parser.add_argument("--name", required=True, help=f"what it scores: one of {', '.join(NAMES)}, or your own word")
    parser.add_argument("--out", required=True, type=Path, help="folder for model and card")
    parser.add_argument("--test", type=Path, help="held-out labels; otherwise a fifth of LABELS")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--language-column", default="language", help="may be missing")
    parser.add_argument("--good", action="append", help="a label value that means good; all others are bad")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--backend", choices=("linear", "bert", "fasttext"), default="linear")
    parser.add_argument("--base", help="bert: folder or hub id of the encoder to fine-tune; fasttext: the .bin file")
    parser.add_argument("--good-label", help="fasttext: the model's label of good texts")
    parser.add_argument("--epochs", type=int, default=3, help="bert; 0: the encoder has a head already")
    parser.add_argument("--lr", type=float, default=3e-5, help="bert: highest learning rate")
    parser.add_argument("--workers", type=int, default=2, help="bert: actors that score the held-out texts")
    arguments = parser.parse_intermixed_args(argv)
    if (arguments.backend != "linear") != (arguments.base is not None):
        raise UserError("--base goes with --backend bert or fasttext: name encoder or file, or leave both out")
    if (arguments.backend == "fasttext") != (arguments.good_label is not None):
        raise UserError("--backend fasttext and --good-label go together: name the model's label of good texts")
    if arguments.epochs < 0 or arguments.workers < 1 or arguments.lr <= 0:
        raise UserError("--workers and --lr must be above zero, --epochs not below it; correct them")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
