"""What the five steps do with one file: pure functions from files to files, each skipped where its output is complete.

A step reads `<previous>/kept-NNNNN.jsonl.zst` and writes kept, removed and, last, `stats-NNNNN.json`. Bytes depend on
the input and the settings alone; files appear by renaming. So a step may be killed, or run twice, at any moment.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonlWriter, Row, batches, read_jsonl
from ilm_ray.base.places import located
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.drops import load_drops
from ilm_ray.data.dedup.minhash import bands_and_rows, sign_batch
from ilm_ray.data.documents.cost import Cost
from ilm_ray.data.documents.document import Verdict, judged, sized
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.paths import (
    cost_path,
    drops_path,
    is_done,
    model_path,
    outputs,
    save_arrays,
    signatures_path,
)
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web.classifiers.model import Classifier, load_classifier
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures, score_batch
from ilm_ray.data.web.format.rows import format_rows
from ilm_ray.data.web.safe.blocklist import Domains, Words, read_words

DOMAINS, WORDS = "domains.npy", "words.json"
BATCH = 128  # documents scored at once
RAW_EVERY = 64  # of the documents that Clean changes, this share keeps the text it had, for the report


def format_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Records -> documents with main text, language and id."""
    counts: Counter[str] = Counter()
    _write(folder, "format", source, lambda: format_rows(source, config, counts), counts)


def clean_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Normalise, score, and remove what breaks a rule."""

    def rows() -> Iterator[Row]:
        for batch in batches(read_jsonl(outputs(folder, "format", source.index)[0]), BATCH):
            cleaned = [drop_chrome(normalise(row["text"])) for row in batch]
            languages = [row["language"] for row in batch]
            scores = score_batch([text for text, _ in cleaned], languages)
            verdicts = first_failures(scores, languages, config.rules)
            found = [dict(zip(scores, values, strict=True)) for values in np.stack([*scores.values()], 1).tolist()]
            for row, (text, removed), score, verdict in zip(batch, cleaned, found, verdicts, strict=True):
                if text != row["text"] and row["id"] % RAW_EVERY == 0:
                    row["raw_text"] = row["text"]
                yield judged(row | score | {"removed_lines": removed} | sized(text), verdict)

    _write(folder, "clean", source, rows)


def sign_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Exact keys, band keys and signatures of a file's clean documents, for the shuffle."""
    if signatures_path(folder, source.index).is_file():
        return
    bands, width = bands_and_rows(config.threshold, config.num_hashes)
    ids: list[int] = []
    found = [sign_batch([], config.ngram, config.num_hashes, bands, width)]
    with Cost(cost_path(folder, "sign", source.index)) as cost:
        for batch in batches(read_jsonl(outputs(folder, "clean", source.index)[0]), BATCH):
            texts = [row["text"] for row in batch]
            ids += [row["id"] for row in batch]
            found.append(sign_batch(texts, config.ngram, config.num_hashes, bands, width))
            cost.add(batch)
        save_arrays(
            signatures_path(folder, source.index),
            ids=np.array(ids, np.uint64),
            exact=np.concatenate([part.exact for part in found]),
            bands=np.concatenate([part.bands for part in found]),
            signatures=np.concatenate([part.signatures for part in found]),
        )


def drop_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Remove the documents on the file's drop list."""

    def rows() -> Iterator[Row]:
        drops = load_drops(drops_path(folder, source.index))
        place = {document: position for position, document in enumerate(drops.ids.tolist())}
        for row in read_jsonl(outputs(folder, "clean", source.index)[0]):
            position = place.get(row["id"])
            if position is None:
                yield row
                continue
            alike = round(float(drops.similarity[position]), 4)
            row |= {"duplicate_of": int(drops.duplicate_of[position]), "similarity": alike}
            exact = drops.exact[position]
            rule, threshold = ("exact_duplicate", None) if exact else ("near_duplicate", config.threshold)
            yield judged(row, Verdict(rule, alike, threshold))

    _write(folder, "dedup", source, rows)


def safe_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Blocked domains, blocked words, toxicity, pornography; a list or classifier that is not named is off."""
    bounds = _bounds(config, "toxicity", "pornography")

    def rows() -> Iterator[tuple[Row, Verdict | None]]:
        domains = Domains.load(folder / "safe" / DOMAINS) if config.blocked_domains else None
        text = (folder / "safe" / WORDS).read_text(encoding="utf-8") if config.blocked_words else None
        words = Words(json.loads(text)) if text else None
        for batch in batches(read_jsonl(outputs(folder, "dedup", source.index)[0]), BATCH):
            urls = [row["url"] for row in batch]
            blocked = domains.match_batch(urls) if domains else [None] * len(batch)
            for row, domain in zip(batch, blocked, strict=True):
                found = words.matches(row["text"]) if words else []
                if words:
                    row["blocked_words"] = len(found)
                if domain is not None:
                    yield row, Verdict("blocked_domain", domain, None)
                else:
                    yield row, Verdict("blocked_word", found[0], None) if found else None

    _write(folder, "safe", source, lambda: _classified(rows(), bounds, folder))


def quality_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Advertisement and fluency, unless they are off."""
    bounds = _bounds(config, "advertisement", "fluency")

    def rows() -> Iterator[tuple[Row, Verdict | None]]:
        return ((row, None) for row in read_jsonl(outputs(folder, "safe", source.index)[0]))

    _write(folder, "quality", source, lambda: _classified(rows(), bounds, folder))


def write_block_lists(folder: Path, config: TextConfig) -> None:
    """Read the named lists once, on the driver, into the stage's folder: a task may not see the configured paths.

    Domains become a table of hashes that the tasks map into memory.
    """
    domains, words = folder / "safe" / DOMAINS, folder / "safe" / WORDS
    domains.parent.mkdir(parents=True, exist_ok=True)
    if config.blocked_domains and not domains.is_file():
        Domains.read(Path(located(config.blocked_domains)))[0].save(domains)
    if config.blocked_words and not words.is_file():
        write_text_atomic(words, json.dumps(read_words(Path(located(config.blocked_words)))))


def _bounds(config: TextConfig, *names: str) -> dict[str, float]:
    """Classifier -> threshold, of those that are on."""
    return {name: own.threshold for name in names if (own := getattr(config.classifiers, name)).named}


@functools.lru_cache(maxsize=4)
def _classifier(folder: Path) -> Classifier:
    return load_classifier(folder)  # once a worker process, not once a file


def _classified(rows: Iterable[tuple[Row, Verdict | None]], bounds: dict[str, float], folder: Path) -> Iterator[Row]:
    """Add `<name>_score` of each classifier; the first one below its bound removes what nothing else has removed."""
    classifiers = {name: _classifier(model_path(folder, name)) for name in bounds}
    for batch in batches(rows, BATCH):
        texts = [row["text"] for row, _ in batch]
        found = {name: classifier.score(texts).round(4).tolist() for name, classifier in classifiers.items()}
        for position, (row, verdict) in enumerate(batch):
            for name, bound in bounds.items():
                value = row[f"{name}_score"] = found[name][position]
                if verdict is None and value < bound:
                    verdict = Verdict(name, value, bound)
            yield judged(row, verdict)


def _write(
    folder: Path,
    step: str,
    source: Source,
    rows: Callable[[], Iterable[Row]],
    records: Counter[str] | None = None,
) -> None:
    """Split rows into kept and removed, count them, and write the three files; nothing where they exist."""
    if is_done(folder, step, source.index):
        return
    kept_path, removed_path, stats = outputs(folder, step, source.index)
    funnel = Funnel()
    with (
        Cost(cost_path(folder, step, source.index)) as cost,
        JsonlWriter(kept_path) as kept,
        JsonlWriter(removed_path) as removed,
    ):
        for row in rows():
            funnel.add(step, row)
            cost.add([row])
            (removed if "drop_rule" in row else kept).write(row)
    counted = {"funnel": funnel.rows(), "records": dict(sorted((records or Counter()).items()))}
    write_text_atomic(stats, json.dumps(counted, sort_keys=True))
