"""Explain why a run decided as it did, from its files. Needs no Ray and runs no model.

    python jobs/explain.py threshold --run-dir DIR --rule RULE --at X [--side low|high] [--language L] [--samples N]
    python jobs/explain.py document URL-or-id --run-dir DIR
    python jobs/explain.py batch --step K --run-dir DIR [--rank R --ranks N]
    python jobs/explain.py rollout --iteration N --run-dir DIR [--samples N] [--replay]

Words for people come first unless --json is given; the last line is one JSON object as for every job. Exit codes: 0
done, 2 bad input, 1 anything else.
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ilm_ray.report.explain import document as explain_document
from ilm_ray.report.explain import threshold as explain_threshold
from ilm_ray.report.explain.text_run import open_run
from jobs.frame.command import Parser, run_verb

Said = tuple[list[str], dict[str, Any], dict[str, Any]]  # words, figures, and what --json adds to the figures


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one question, print the JSON line, return the exit code."""
    return run_verb("explain", _parser(), argv)


def _parser() -> Parser:
    parser = Parser(prog="jobs/explain.py", description="Why a run decided as it did.")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="threshold|document|batch|rollout")
    _add_threshold(commands.add_parser("threshold", help="what would flip if a rule's threshold moved"))
    _add_document(commands.add_parser("document", help="what became of a document, and why"))
    _add_batch(commands.add_parser("batch", help="what a step of pre-training read, and where that is from"))
    _add_rollout(commands.add_parser("rollout", help="what PPO's groups said of an iteration's answers"))
    for command in commands.choices.values():
        command.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        command.add_argument("--json", action="store_true", help="nothing but the JSON line, with all in it")
        command.set_defaults(work=_answer)
    return parser


def _answer(a: argparse.Namespace) -> dict[str, Any]:
    """Words for people unless --json is given; the figures of the JSON line."""
    words, figures, more = a.answer(a)
    if not a.json:
        print("\n".join(line.encode("utf-8", "replace").decode() for line in map(_shown, words)))
    return {"run_dir": str(a.run_dir.absolute()), **figures, **(more if a.json else {})}


def _add_threshold(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rule", required=True)
    command.add_argument("--at", type=number, required=True, help="the threshold to try")
    command.add_argument("--side", choices=(explain_threshold.LOW, explain_threshold.HIGH), help="default: the nearer")
    command.add_argument("--language", help="only documents of this language")
    command.add_argument("--samples", type=count, default=10, help="documents nearest the line (default 10)")
    command.set_defaults(answer=_threshold)


def _add_document(command: argparse.ArgumentParser) -> None:
    command.add_argument("document", metavar="URL-or-id")
    command.set_defaults(answer=_document)


def _add_batch(command: argparse.ArgumentParser) -> None:
    command.add_argument("--step", type=count, required=True, help="from 1, as in pretrain/metrics.jsonl")
    command.add_argument("--rank", type=count, default=0, help="only what this rank reads (default: all)")
    command.add_argument("--ranks", type=count, default=1, help="of how many")
    command.set_defaults(answer=_batch)


def _add_rollout(command: argparse.ArgumentParser) -> None:
    command.add_argument("--iteration", type=count, required=True, help="from 0, as in ppo/metrics.jsonl")
    command.add_argument("--samples", type=count, default=1, help="rollouts of each domain (default 1)")
    command.add_argument("--replay", action="store_true", help="do KL, GAE and losses again and show differences")
    command.set_defaults(answer=_rollout)


def _threshold(a: argparse.Namespace) -> Said:
    flips = explain_threshold.move(open_run(a.run_dir), a.rule, a.at, a.side, a.language, a.samples)
    return explain_threshold.lines(flips), explain_threshold.summary(flips), {"samples": flips.nearest}


def _document(a: argparse.Namespace) -> Said:
    stories = explain_document.stories(open_run(a.run_dir), a.document)
    words = [line for story in stories for line in (*explain_document.lines(story), "")]
    summaries = [explain_document.summary(story) for story in stories]
    short = [{name: story[name] for name in ("id", "url", "dump", "fate")} for story in summaries]
    return words[:-1], {"documents": short}, {"documents": summaries}


def _batch(a: argparse.Namespace) -> Said:
    from ilm_ray.report.explain import batch as explain_batch  # imports torch, which the other answers do without

    batch = explain_batch.explain(a.run_dir, a.step, a.rank, a.ranks)
    return list(explain_batch.lines(batch)), explain_batch.summary(batch), explain_batch.details(batch)


def _rollout(a: argparse.Namespace) -> Said:
    from ilm_ray.alignment.ppo import blackbox  # imports torch, which the other answers do without
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    box = blackbox.read(a.run_dir / "ppo", a.iteration)
    words = list(blackbox.lines(box, open_tokenizer(a.run_dir / "tokenizer"), a.samples))
    if not a.replay:
        return words, blackbox.summary(box), {}
    largest, differences = blackbox.replay(box)
    replay_figures = {"largest_difference": largest, "differences": [asdict(difference) for difference in differences]}
    return [*words, "", *blackbox.replay_lines(largest, differences)], {**blackbox.summary(box), **replay_figures}, {}


def _shown(line: str) -> str:
    """Crawled text on a terminal: control characters could move its cursor or colour the text behind."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def number(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError
    return value


def count(word: str) -> int:
    value = int(word)
    if value < 0:
        raise ValueError
    return value


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    sys.exit(main())
