"""Long-context data: does the filter find bad joints, and does it drop what has no meaning and keep what has?

    python benchmarks/long_text.py [--data DIR] [--run-dir DIR] [--steps N] [--documents N] [--part joints|statistics]

Joints: a run over real text (`text.sources`) trains the scorer as any run does. Documents that it never saw, of works
or files of their own, are scored whole and spliced: the first half of one, the second half of another of its domain.
AUC of the perplexity difference, whole against spliced, by domain and over all scores at once. A joint between works
takes another novel, essay or manual where the domain has one; a joint within a work is the harder case.

Statistics: books and manuals against link lists, tables of numbers and boilerplate made of real pages, CSV files and
licences, by the shipped thresholds, on the half of the material that the thresholds were not chosen on.
"""

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from long_documents import Document, bad, good, is_long, part
from sklearn.metrics import roc_auc_score

from actors.perplexity import ScorerSettings, score_parts
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.config import Config, load_config
from ilm_ray.data.longtext.features import describe
from ilm_ray.data.longtext.perplexity import Cut
from ilm_ray.data.longtext.thresholds import DIFFERENCE, first_failure, parse_thresholds, read_thresholds
from ilm_ray.run.journal import Journal
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.stage import run_stage
from jobs import code_data, decontaminate, long_text, tokenize_corpus, tokenizer, web_text
from jobs.frame.cluster import LocalRay

HELDOUT_WORKS = ("红楼梦", "水浒传", "16215", "3261")  # whole books; of essays and manuals every fourth file
SEGMENT = 2048
SHOWN_BYTES = 16_000  # of a document that is scored: enough for several pairs
MODEL = "{layers: 2, hidden: 128, kv_heads: 2, queries_per_kv: 1, head_dim: 64, mlp_hidden: 192}"
SEED = 1234
KINDS = ("whole", "between works", "within a work")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data")
    parser.add_argument("--run-dir", type=Path, help="keep the run here, and go on with it")
    parser.add_argument("--steps", type=int, default=240, help="of the scorer's training")
    parser.add_argument("--documents", type=int, default=20, help="of each domain that are scored whole")
    parser.add_argument("--part", choices=("joints", "statistics"), action="append")
    arguments = parser.parse_args()
    wanted, figures = arguments.part or ["statistics", "joints"], dict[str, Any]()
    documents = good(arguments.data / "text")
    if "statistics" in wanted:
        figures["statistics"] = statistics(documents, bad(arguments.data))
    if "joints" in wanted:
        with tempfile.TemporaryDirectory() as temporary:
            run_dir = (arguments.run_dir or Path(temporary)).absolute()
            figures["joints"] = joints(documents, run_dir, arguments.steps, arguments.documents)
    print(json.dumps({"benchmark": "long_text", **figures}, ensure_ascii=False))


def statistics(documents: Sequence[Document], rubbish: Sequence[Document]) -> dict[str, Any]:
    """Share of each kind that is kept, of the half of the material that is held out."""
    table = parse_thresholds(read_thresholds(None))
    kept: dict[str, list[bool]] = defaultdict(list)
    started, size = time.process_time(), 0
    # Pieces of one list or table stay in one half.
    named = [(d.name, d) for d in documents if is_long(d)] + [(d.name.rsplit(" ", 1)[0], d) for d in rubbish]
    for source, document in named:
        if part(source, 2) == 1:
            (scores,) = describe([document.text], [document.language])
            verdict = first_failure(scores, table.of("web", document.language))
            kept[document.domain].append(verdict is None)
            size += len(document.text.encode())
    seconds = time.process_time() - started
    shares = {name: {"documents": len(v), "kept": round(sum(v) / len(v), 3)} for name, v in sorted(kept.items())}
    return {"kinds": shares, "mb_per_second_and_core": round(size / seconds / 1e6, 2)}


def joints(documents: Sequence[Document], run_dir: Path, steps: int, count: int) -> dict[str, Any]:
    """Train a scorer on what is not held out; AUC of its differences."""
    training = [d for d in documents if not _held_out(d) and len(d.text) > 500]
    config = _config(training, run_dir / "sources", steps)
    run_dir.mkdir(parents=True, exist_ok=True)
    with LocalRay(config):
        seconds = {}
        for module in (web_text, code_data, decontaminate, tokenizer, tokenize_corpus, long_text):
            done: Manifest = run_stage(module.STAGE, config, run_dir, Journal(run_dir / "journal.jsonl"))
            seconds[module.STAGE.name] = done.seconds
        scorer = done.metrics["scorer"]
        started = time.monotonic()
        cases = spliced([d for d in documents if _held_out(d) and is_long(d)], count)
        scores = _score(
            cases,
            run_dir / f"joints-{done.fingerprint}-{count}",
            run_dir / "long_text/scorer/model",
            run_dir / "tokenizer",
        )
        seconds["scoring"] = round(time.monotonic() - started, 1)
    rules = parse_thresholds(read_thresholds(None))
    return {
        "trained_on": {"documents": len(training), **scorer},
        "seconds": seconds,
        "auc": {kind: _auc(cases, scores, kind) for kind in KINDS[1:]},
        "kept_by_the_shipped_bound": {kind: _kept(cases, scores, kind, rules) for kind in KINDS},
    }


def spliced(documents: Sequence[Document], count: int) -> list[tuple[str, Document]]:
    """(kind, document): of each domain `count` whole ones, and each of them with the second half of another."""
    rng, cases = random.Random(SEED), list[tuple[str, Document]]()
    domains: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda d: part(d.name, 2**40)):
        domains[document.domain].append(document._replace(text=_cut(document.text)))
    for members in domains.values():
        chosen = members[:count]
        for document in chosen:
            cases.append(("whole", document))
            for kind in KINDS[1:]:
                others = [d for d in chosen if d.name != document.name]
                same = [d for d in others if d.work == document.work]
                apart = [d for d in others if d.work != document.work]
                pool = same if kind == "within a work" else apart or same
                if pool:
                    first, second = _halves(document.text)[0], _halves(rng.choice(pool).text)[1]
                    cases.append((kind, document._replace(text=first + second)))
    return cases


def _held_out(document: Document) -> bool:
    if document.domain.startswith("books"):
        return document.work in HELDOUT_WORKS
    return part(document.name, 4) == 0


def _config(training: Sequence[Document], folder: Path, steps: int) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    domains: dict[str, list[Document]] = defaultdict(list)
    for document in training:
        domains[document.domain].append(document)
    for domain, members in domains.items():
        write_jsonl(folder / f"{domain}.jsonl", ({"text": d.text, "url": d.name} for d in members))
    settings = [f"text.sources.{domain}.input={folder / domain}.jsonl" for domain in domains]
    # Clean and the demo's classifiers are not what is measured.
    settings += [f"text.classifiers.{n}.threshold=0" for n in ("toxicity", "pornography", "advertisement", "fluency")]
    settings += [
        "input=null",
        f"code.source={Path(__file__).parent}",
        "tokenizer.base_choice=most_used",
        "tokenizer.base_tokens=2400",
        "tokenizer.chinese_tokens=1600",
        "tokenizer.vocab_size=4096",
        "training.precision=bf16",
        "long_text.min_bytes=60000",  # what the run itself marks is not looked at here
        f"long_text.segment_tokens={SEGMENT}",
        f"long_text.scorer_model={MODEL}",
        f"long_text.scorer_steps={steps}",
        "long_text.scorer_batch_tokens=8192",
        "long_text.scorer_lr=2.0e-3",
    ]
    return load_config("nano", None, settings)


def _score(cases: Sequence[tuple[str, Document]], folder: Path, model: Path, tokenizer_: Path) -> list[float | None]:
    parts, rows = list[tuple[Path, Path]](), [{"id": at, "text": d.text} for at, (_, d) in enumerate(cases)]
    for number, start in enumerate(range(0, len(rows), 16)):
        parts.append((folder / f"part-{number}.jsonl.zst", folder / f"scored-{number}.jsonl.zst"))
        write_jsonl(parts[-1][0], rows[start : start + 32])
    score_parts(parts, ScorerSettings(str(model), str(tokenizer_), Cut(SEGMENT, 64)), workers=2)
    differences = {row["id"]: row[DIFFERENCE] for _, out in parts for row in read_jsonl(out)}
    return [differences[at] for at in range(len(cases))]


def _auc(cases: Sequence[tuple[str, Document]], scores: Sequence[float | None], kind: str) -> dict[str, Any]:
    """Whole ones should have the larger difference; by domain, and over all scores at once."""
    used = [
        (d.domain, k == "whole", s)
        for (k, d), s in zip(cases, scores, strict=True)
        if k in ("whole", kind) and s is not None
    ]
    out: dict[str, Any] = {}
    for domain in sorted({d for d, _, _ in used}):
        mine = [(whole, score) for d, whole, score in used if d == domain]
        if len({whole for whole, _ in mine}) == 2:
            out[domain] = round(float(roc_auc_score(*zip(*mine, strict=True))), 3)
    present = [(whole, score) for domain, whole, score in used if domain in out]
    mean = round(sum(out.values()) / len(out), 3)
    return out | {"mean of domains": mean, "all": round(float(roc_auc_score(*zip(*present, strict=True))), 3)}


def _kept(cases: Sequence[tuple[str, Document]], scores: Sequence[float | None], kind: str, rules: Any) -> float:
    verdicts = [
        first_failure({DIFFERENCE: score}, {DIFFERENCE: rules.of("web", d.language)[DIFFERENCE]}) is None
        for (k, d), score in zip(cases, scores, strict=True)
        if k == kind
    ]
    return round(sum(verdicts) / len(verdicts), 3)


def _cut(text: str) -> str:
    """Whole lines of about the first SHOWN_BYTES bytes."""
    cut = text.encode()[:SHOWN_BYTES].decode("utf-8", "ignore")
    return text if cut == text else cut[: cut.rfind("\n") + 1 or len(cut)]


def _halves(text: str) -> tuple[str, str]:
    """Both halves, parted at the first line end behind the middle, or there where it is far."""
    middle = len(text) // 2
    end = text.find("\n", middle) + 1
    at = end if 0 < end < middle + len(text) // 8 else middle
    return text[:at], text[at:]


if __name__ == "__main__":
    main()
