"""What the code stage does with one part: pure functions from files to files, skipped where their output is complete.

`read`: bytes -> rows with text, language, licence header and scores, and signatures. `quality`: duplicates fall, tiers
and weights come. Rows are those of web text: what falls is kept beside with `drop_rule`, `drop_value`, `threshold`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonlWriter, Row, batches, read_jsonl
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files import licences
from ilm_ray.data.code.files.entries import Entry
from ilm_ray.data.code.files.filters import is_licence, judge_content, path_verdict
from ilm_ray.data.code.files.forms import Unconvertible, convert
from ilm_ray.data.code.files.lint import lint_files
from ilm_ray.data.code.files.mask import mask
from ilm_ray.data.code.files.scores import HIGH, LOW, MODERATE, TIERS, low_quality, rule_tier, scores
from ilm_ray.data.code.files.selection import limits
from ilm_ray.data.code.files.tokens import canonical
from ilm_ray.data.code.files.trees import Part, Tree, read_tree
from ilm_ray.data.dedup.drops import load_drops
from ilm_ray.data.dedup.minhash import bands_and_rows, sign_batch
from ilm_ray.data.documents.document import Verdict, judged, sized
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.paths import drops_path, is_done, outputs, save_arrays, signatures_path
from ilm_ray.data.documents.sources import ROW_BITS

STEPS = ("read", "quality")
HASHES, NGRAM = 128, 5
# Candidates are sought well below the threshold and then verified by their signatures: banding at 0.7 itself would find
# less than half of the pairs that are 0.7 alike, and a renamed variable costs a short file that much.
BAND_MARGIN = 0.2
BATCH = 64  # files signed at once
UNKNOWN, PYTHON = "unknown", "python"


def read_part(number: int, part: Part, folder: Path, config: CodeConfig) -> None:
    """Read, judge, convert, mask and score the files of a part; sign those that stay."""
    if is_done(folder, "read", number) and signatures_path(folder, number).is_file():
        return
    texts: dict[str, str] = {}
    found: list[tuple[int, str]] = []

    def rows() -> Iterator[Row]:
        for place, row in enumerate(_read_rows(part, config, texts)):
            row["id"] = number << ROW_BITS | place
            if "drop_rule" not in row:
                found.append((row["id"], row["text"]))
            yield row

    _write(folder, "read", number, rows, lambda: {"licences": texts})
    _sign(found, signatures_path(folder, number), config)


def quality_part(
    number: int, folder: Path, config: CodeConfig, shares: dict[str, float], texts: dict[str, Any]
) -> None:
    """Drop duplicates; give each file its licence, tier, weight and, for Python, lint score, and drop the low ones.

    shares: language -> share of the run's bytes; texts: tree -> folder -> licence.
    """
    if is_done(folder, "quality", number):
        return

    def rows() -> Iterator[Row]:
        drops = load_drops(drops_path(folder, number))
        place = {file: position for position, file in enumerate(drops.ids.tolist())}
        for batch in batches(read_jsonl(outputs(folder, "read", number)[0]), BATCH):
            tiers = _tiers(batch, folder, config)
            linted = _lint(batch, place.keys(), config)
            for row, (tier, verdict, about) in zip(batch, tiers, strict=True):
                row["licence"] = row["licence"] or licences.folder_licence(
                    row["path"], texts.get(row["repository"], {})
                )
                if (position := place.get(row["id"])) is not None:
                    alike = round(float(drops.similarity[position]), 4)
                    row |= {"duplicate_of": int(drops.duplicate_of[position]), "similarity": alike}
                    exact = bool(drops.exact[position])
                    rule, threshold = ("exact_duplicate", None) if exact else ("near_duplicate", config.threshold)
                    yield judged(row, Verdict(rule, alike, threshold))
                    continue
                row |= about | linted.get(row["id"], {})
                rare = shares.get(row["language"], 0.0) < config.low_resource_share
                if tier == LOW and not rare:
                    yield judged(row | {"tier": LOW, "weight": 0.0}, verdict)
                    continue
                kept = MODERATE if tier == LOW else tier
                weight = config.high_weight if kept == HIGH else config.moderate_weight
                yield row | {"tier": kept, "weight": weight, "low_resource": tier == LOW}

    _write(folder, "quality", number, rows, dict)


def language_bytes(folder: Path, number: int) -> Counter[str]:
    """Bytes of text per language that `read` kept of a part."""
    counts = Counter[str]()
    for row in json.loads(outputs(folder, "read", number)[2].read_text(encoding="utf-8"))["funnel"]:
        if row["rule"] == "kept":
            counts[row["language"]] += row["bytes"]
    return counts


def _read_rows(part: Part, config: CodeConfig, texts: dict[str, str]) -> Iterator[Row]:
    """A row for each entry, in the order of the entries; `texts` gathers the licences of folders."""
    fallen = {e.path: v for e in part.entries if (v := path_verdict(e.path, e.size, config.max_file_bytes)) is not None}
    wanted = [entry for entry in part.entries if entry.path not in fallen]
    place = {entry.path: number for number, entry in enumerate(part.entries)}
    ready: dict[int, Row] = {place[path]: judged(_blank(part.tree, path), verdict) for path, verdict in fallen.items()}
    due = 0
    for entry, content in read_tree(part.tree, wanted, limits(config)):
        ready[place[entry.path]] = _row(part.tree, entry, content, config, texts)
        while due in ready:
            yield ready.pop(due)
            due += 1
    yield from (ready[number] for number in sorted(ready))


def _row(tree: Tree, entry: Entry, content: bytes, config: CodeConfig, texts: dict[str, str]) -> Row:
    row = _blank(tree, entry.path)
    if len(content) > config.max_file_bytes:  # the archive's own figure was wrong
        return judged(row, Verdict("file_bytes", len(content), config.max_file_bytes))
    text, language, verdict = judge_content(entry.path, content)
    row["language"] = row["source_language"] = language or UNKNOWN
    if is_licence(entry.path) and text:
        texts[entry.path.rpartition("/")[0]] = found = licences.text_licence(text)
        verdict = Verdict("licence_text", found, None)
    if verdict is None:
        try:
            form = convert(text, language)
        except Unconvertible as error:
            verdict = Verdict("unconvertible", str(error), None)
    if verdict is not None:  # what falls is kept beside, and read by people: without secrets too
        return judged(row | sized(mask(text).text), verdict)
    masked = mask(form.text)
    return row | sized(masked.text) | scores(masked.text, form.language) | {
        "language": form.language,
        "licence": licences.header_licence(text),
        "masked_emails": masked.emails,
        "masked_ips": masked.ips,
        "masked_secrets": masked.secrets,
    }  # fmt: skip


def _blank(tree: Tree, path: str) -> Row:
    names = {"repository": tree.name, "path": path, "url": f"{tree.name}/{path}", "dump": "code"}
    return names | {"language": UNKNOWN, "source_language": UNKNOWN} | sized("")


def _tiers(batch: list[Row], folder: Path, config: CodeConfig) -> list[tuple[str, Verdict | None, Row]]:
    """(tier, why it is low, columns) of each row: the rules', or the model's where its language passed the bar."""
    found: list[tuple[str, Verdict | None, Row]] = []
    for row in batch:
        found.append((rule_tier(row, row["language"]), low_quality(row, row["language"]), {"scorer": "rules"}))
    if config.scorer is None:
        return found
    card = json.loads((folder / "scorer" / "card.json").read_text(encoding="utf-8"))
    passing = {language for language, about in card["languages"].items() if about["passes"]}
    # What the rules call low stays low: they name defects, the model a degree.
    asked = [i for i, row in enumerate(batch) if row["language"] in passing and found[i][0] != LOW]
    if asked:
        from ilm_ray.data.code.files.scorer import (
            Scorer,
            vectorise,
        )  # brings scikit-learn: seconds that the rules need not

        model = Scorer.load(folder / "scorer" / "scorer.npz")
        for i, chances in zip(asked, model.probabilities(vectorise([batch[i]["text"] for i in asked])), strict=True):
            tier = TIERS[int(chances.argmax())]
            columns = {"scorer": "model", "model_score": round(float(chances[1] / 2 + chances[2]), 4)}
            verdict = Verdict("model_low", round(float(chances[0]), 4), None) if tier == LOW else None
            found[i] = (tier, verdict, columns)
    return found


def _lint(batch: list[Row], duplicates: Set[int], config: CodeConfig) -> dict[int, Row]:
    """Id -> lint columns of the Python files that are no duplicates; none where nobody asks for them."""
    if config.min_lint_score is None:
        return {}
    asked = [row for row in batch if row["language"] == PYTHON and row["id"] not in duplicates]
    found = lint_files([row["text"] for row in asked])
    return {
        row["id"]: {"lint_score": lint.score, "lint_found": list(lint.found)}
        for row, lint in zip(asked, found, strict=True)
    }


def _sign(found: list[tuple[int, str]], path: Path, config: CodeConfig) -> None:
    bands, width = bands_and_rows(max(config.threshold - BAND_MARGIN, 0.1), HASHES)
    parts = [sign_batch([], NGRAM, HASHES, bands, width)]
    for batch in batches(found, BATCH):
        parts.append(sign_batch([canonical(text) for _, text in batch], NGRAM, HASHES, bands, width))
    save_arrays(
        path,
        ids=np.array([file for file, _ in found], np.uint64),
        exact=np.concatenate([part.exact for part in parts]),
        bands=np.concatenate([part.bands for part in parts]),
        signatures=np.concatenate([part.signatures for part in parts]),
    )


def _write(
    folder: Path, step: str, number: int, rows: Callable[[], Iterable[Row]], about: Callable[[], dict[str, Any]]
) -> None:
    """Split rows into kept and removed, count them, and write the three files, the statistics last."""
    kept_path, removed_path, stats = outputs(folder, step, number)
    funnel = Funnel()
    with JsonlWriter(kept_path) as kept, JsonlWriter(removed_path) as removed:
        for row in rows():
            funnel.add(step, row)
            (removed if "drop_rule" in row else kept).write(row)
    write_text_atomic(stats, json.dumps({"funnel": funnel.rows(), **about()}, sort_keys=True))
