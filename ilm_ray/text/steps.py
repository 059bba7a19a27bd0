"""What the five steps do with one file: pure functions from files to files, each skipped where its output is complete.

A step reads `<previous>/kept-NNNNN.jsonl.zst` and writes kept, removed and, last, `stats-NNNNN.json`. Bytes depend on
the input and the settings alone; files appear by renaming. So a step may be killed, or run twice, at any moment.
"""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.config.schema import TextConfig
from ilm_ray.corpus.files import temporary_path, write_text_atomic
from ilm_ray.corpus.jsonl import Row, read_jsonl, write_jsonl
from ilm_ray.demo import DATA
from ilm_ray.text.blocklist import Domains, Words, read_list
from ilm_ray.text.charset import decode
from ilm_ray.text.classifier import Classifier
from ilm_ray.text.components import Drops
from ilm_ray.text.extract import Extractor
from ilm_ray.text.funnel import Funnel
from ilm_ray.text.inputs import open_source
from ilm_ray.text.language import UNKNOWN, detect_language, tokens
from ilm_ray.text.minhash import Signer, bands_and_rows, exact_key, shingle_hashes
from ilm_ray.text.normalise import drop_chrome, normalise
from ilm_ray.text.rules import Verdict, first_failures, score_batch
from ilm_ray.text.sources import Source
from ilm_ray.text.warc import Capture, read_captures

STEPS = ("format", "clean", "dedup", "safe", "quality")
DOMAINS, WORDS = "domains.npy", "words.json"
_BATCH = 128  # documents that are scored at once


def outputs(folder: Path, step: str, index: int) -> tuple[Path, Path, Path]:
    """Kept, removed and stats file of one input file; the stats file is written last."""
    at = folder / step
    return (
        at / f"kept-{index:05d}.jsonl.zst",
        at / f"removed-{index:05d}.jsonl.zst",
        at / f"stats-{index:05d}.json",
    )


def is_done(folder: Path, step: str, index: int) -> bool:
    return all(path.is_file() for path in outputs(folder, step, index))


def signatures_path(folder: Path, index: int) -> Path:
    return folder / "dedup" / f"signatures-{index:05d}.npz"


def drops_path(folder: Path, index: int) -> Path:
    return folder / "dedup" / f"drops-{index:05d}.npz"


def list_path(configured: str | None, name: str) -> Path:
    """A list of domains or words: the configured file or the one shipped with the demo."""
    return Path(configured) if configured else DATA / "lists" / name


def format_file(source: Source, folder: Path, config: TextConfig) -> None:
    """WARC records -> documents with main text, language and id."""
    counts: Counter[str] = Counter()

    def rows() -> Iterator[Row]:
        with open_source(source) as stream, Extractor(config.extract_timeout_s) as extractor:
            for number, capture in enumerate(read_captures(stream, config.max_html_bytes, counts)):
                yield _document(source.document_id(number), source.dump, capture, extractor, config)

    _write(folder, "format", source.index, rows(), counts)


def clean_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Normalise, score, and remove what breaks a rule."""

    def rows() -> Iterator[Row]:
        documents = read_jsonl(outputs(folder, "format", source.index)[0])
        while batch := list(itertools.islice(documents, _BATCH)):
            cleaned = [drop_chrome(normalise(row["text"])) for row in batch]
            languages = [row["language"] for row in batch]
            scores = score_batch([text for text, _ in cleaned], languages)
            verdicts = first_failures(scores, languages, config.rules)
            found = [dict(zip(scores, values, strict=True)) for values in np.stack([*scores.values()], 1).tolist()]
            for row, (text, removed), score, verdict in zip(batch, cleaned, found, verdicts, strict=True):
                yield _judged(row | score | {"removed_lines": removed} | _sizes(text), verdict)

    _write(folder, "clean", source.index, rows())


def sign_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Ids, exact keys and band keys of a file's clean documents, for the shuffle."""
    bands, width = bands_and_rows(config.threshold, config.num_hashes)
    signer = Signer(config.num_hashes, bands, width)
    ids, exact, keys = [], [], []
    for row in read_jsonl(outputs(folder, "clean", source.index)[0]):
        words = tokens(row["text"])
        ids.append(row["id"])
        exact.append(exact_key(words))
        keys.append(signer.band_keys(signer.signature(shingle_hashes(words, config.ngram))))
    save_arrays(
        signatures_path(folder, source.index),
        ids=np.array(ids, np.uint64),
        exact=np.array(exact, np.uint64),
        bands=np.array(keys, np.uint64).reshape(len(ids), bands),
    )


def drop_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Remove the documents on the file's drop list."""
    drops = load_drops(drops_path(folder, source.index))
    place = {document: position for position, document in enumerate(drops.ids.tolist())}

    def rows() -> Iterator[Row]:
        for row in read_jsonl(outputs(folder, "clean", source.index)[0]):
            position = place.get(row["id"])
            if position is None:
                yield row
            elif drops.exact[position]:
                yield _judged(row, Verdict("exact_duplicate", 1.0, None), int(drops.duplicate_of[position]))
            else:
                yield _judged(row, Verdict("near_duplicate", "", config.threshold), int(drops.duplicate_of[position]))

    _write(folder, "dedup", source.index, rows())


def safe_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Blocked domains, blocked words, toxicity, pornography."""
    domains = Domains(np.load(folder / "safe" / DOMAINS, mmap_mode="r", allow_pickle=False))
    words = Words(json.loads((folder / "safe" / WORDS).read_text(encoding="utf-8")))

    def block(row: Row) -> Verdict | None:
        domain, found = domains.match(row["url"]), words.matches(row["text"])
        row["blocked_words"] = len(found)
        if domain is not None:
            return Verdict("blocked_domain", domain, None)
        return Verdict("blocked_word", found[0], None) if found else None

    bounds = {
        "toxicity": config.classifiers.toxicity.threshold,
        "pornography": config.classifiers.pornography.threshold,
    }
    rows = ((row, block(row)) for row in read_jsonl(outputs(folder, "dedup", source.index)[0]))
    _write(folder, "safe", source.index, _classified(rows, bounds, folder))


def quality_file(source: Source, folder: Path, config: TextConfig) -> None:
    """Advertisement and fluency."""
    bounds = {
        "advertisement": config.classifiers.advertisement.threshold,
        "fluency": config.classifiers.fluency.threshold,
    }
    rows: Iterator[tuple[Row, Verdict | None]] = (
        (row, None) for row in read_jsonl(outputs(folder, "safe", source.index)[0])
    )
    _write(folder, "quality", source.index, _classified(rows, bounds, folder))


def write_block_lists(folder: Path, config: TextConfig) -> None:
    """Read both lists once, on the driver, into the stage's folder: a task may not see the configured paths.

    Domains become hashes that the tasks map into memory.
    """
    domains, words = folder / "safe" / DOMAINS, folder / "safe" / WORDS
    domains.parent.mkdir(parents=True, exist_ok=True)
    if not domains.is_file():
        temporary = temporary_path(domains)
        with temporary.open("wb") as out:
            np.save(out, Domains.of(read_list(list_path(config.blocked_domains, "blocked_domains.txt"))).hashes)
        temporary.replace(domains)
    if not words.is_file():
        write_text_atomic(words, json.dumps(read_list(list_path(config.blocked_words, "blocked_words.txt"))))


def model_path(folder: Path, name: str) -> Path:
    return folder / "models" / f"{name}.npz"


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a .npz atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as out:
        np.savez(out, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def load_drops(path: Path) -> Drops:
    with np.load(path, allow_pickle=False) as saved:
        return Drops(saved["ids"], saved["duplicate_of"], saved["exact"])


def read_stats(folder: Path, step: str, index: int) -> dict[str, Any]:
    """{"funnel": rows, "records": counts} of one file."""
    stats: dict[str, Any] = json.loads(outputs(folder, step, index)[2].read_text(encoding="utf-8"))
    return stats


def kept_and_removed(folder: Path, step: str, index: int) -> dict[str, int]:
    """Documents of one file by outcome: "kept" and "removed"."""
    funnel = Funnel()
    funnel.merge(read_stats(folder, step, index)["funnel"])
    return {outcome: funnel.documents(step, outcome == "kept") for outcome in ("kept", "removed")}


def _document(number: int, dump: str, capture: Capture, extractor: Extractor, config: TextConfig) -> Row:
    row: Row = {"id": number, "url": capture.url, "dump": dump, "date": capture.date, "language": UNKNOWN}
    row |= _sizes("") | {"charset": None, "language_score": 0.0}
    if capture.size > config.max_html_bytes:
        return _judged(row, Verdict("max_html_bytes", capture.size, config.max_html_bytes))
    html, row["charset"] = decode(capture.body, capture.charset)
    extracted = extractor.extract(html)
    if extracted.failure:
        limit = config.extract_timeout_s if extracted.failure == "extract_timeout" else None
        return _judged(row, Verdict(extracted.failure, "", limit))
    row |= _sizes(extracted.text)
    row["language"], row["language_score"] = detect_language(extracted.text)
    if row["chars"] < config.min_chars:
        return _judged(row, Verdict("min_chars", row["chars"], config.min_chars))
    if config.languages is not None and row["language"] not in config.languages:
        return _judged(row, Verdict("language", row["language"], None))
    return row


def _sizes(text: str) -> Row:
    return {"text": text, "chars": len(text), "bytes": len(text.encode("utf-8", "replace"))}


def _judged(row: Row, verdict: Verdict | None, duplicate_of: int | None = None) -> Row:
    if verdict is None:
        return row
    why: Row = {"drop_rule": verdict.rule, "drop_value": verdict.value, "threshold": verdict.threshold}
    return row | why | ({} if duplicate_of is None else {"duplicate_of": duplicate_of})


def _classified(rows: Iterator[tuple[Row, Verdict | None]], bounds: dict[str, float], folder: Path) -> Iterator[Row]:
    """Add `<name>_score` of each classifier; the first one below its bound removes what nothing else has removed."""
    classifiers = {name: Classifier.load(model_path(folder, name)) for name in bounds}
    while batch := list(itertools.islice(rows, _BATCH)):
        texts = [row["text"] for row, _ in batch]
        found = {name: classifier.score(texts).round(4).tolist() for name, classifier in classifiers.items()}
        for position, (row, verdict) in enumerate(batch):
            for name, bound in bounds.items():
                value = row[f"{name}_score"] = found[name][position]
                if verdict is None and value < bound:
                    verdict = Verdict(name, value, bound)
            yield _judged(row, verdict)


def _write(folder: Path, step: str, index: int, rows: Iterable[Row], records: Counter[str] | None = None) -> None:
    """Split rows into kept and removed, count them, and write the three files; nothing where they exist."""
    if is_done(folder, step, index):
        return
    kept, removed, stats = outputs(folder, step, index)
    funnel = Funnel()
    # Most documents of a WARC file are removed: they wait on disk, not in memory, until the kept file is complete.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as dropped:

        def stay() -> Iterator[Row]:
            for row in rows:
                funnel.add(step, row)
                if "drop_rule" in row:
                    dropped.write(json.dumps(row) + "\n")
                else:
                    yield row

        write_jsonl(kept, stay())
        dropped.seek(0)
        write_jsonl(removed, map(json.loads, dropped))
    counted = {"funnel": funnel.rows(), "records": dict(sorted((records or Counter()).items()))}
    write_text_atomic(stats, json.dumps(counted, sort_keys=True))
