"""Work of the code stage on one part: pure functions from files to files, skipped where their output is complete.

`read`: bytes -> documents with text, language, licence header and scores, and signatures. `quality`: duplicates fall,
tiers and weights come. Files that fall are kept beside with `drop_rule`, `drop_value`, `threshold`, as of web text.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonlWriter, batches
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
from ilm_ray.data.code.files.trees import Tree, TreePart, read_tree
from ilm_ray.data.dedup.drops import judge_copy, load_drops
from ilm_ray.data.dedup.minhash import Sketches, bands_and_rows, sign_batch
from ilm_ray.data.documents.document import Document, Verdict, read_documents
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.language import TOKENS
from ilm_ray.data.documents.paths import drops_path, is_done, outputs, save_arrays, signatures_path
from ilm_ray.data.documents.sources import ROW_BITS

STEPS = ("read", "quality")
HASHES, NGRAM = 128, 5
# Candidates are sought well below the threshold and then verified by their signatures: banding at 0.7 itself would find
# less than half of the pairs that are 0.7 alike, and a renamed variable costs a short file that much.
BAND_MARGIN = 0.2
FEWEST_WORDS = 30  # of smaller files a copy must be exact: in ten words, one other is another file
BATCH = 64  # files signed at once
UNKNOWN, PYTHON = "unknown", "python"


def read_part(number: int, part: TreePart, folder: Path, config: CodeConfig) -> None:
    """Read, judge, convert, mask and score the files of a part; sign those that stay."""
    if is_done(folder, "read", number) and signatures_path(folder, number).is_file():
        return
    texts: dict[str, str] = {}
    kept: list[tuple[int, str]] = []

    def documents() -> Iterator[Document]:
        for place, document in enumerate(_read_files(part, config, texts)):
            document.id = number << ROW_BITS | place
            if document.drop_rule is None:
                kept.append((document.id, document.text))
            yield document

    _write(folder, "read", number, documents, lambda: {"licences": texts})
    _sign(kept, signatures_path(folder, number), config)


def quality_part(
    number: int, folder: Path, config: CodeConfig, shares: dict[str, float], texts: dict[str, Any]
) -> None:
    """Drop duplicates; give each file its licence, tier, weight and, for Python, lint score, and drop the low ones.

    shares: language -> share of the run's bytes; texts: tree -> folder -> licence.
    """
    if is_done(folder, "quality", number):
        return

    def documents() -> Iterator[Document]:
        drops = load_drops(drops_path(folder, number))
        place = {file: position for position, file in enumerate(drops.ids.tolist())}
        for batch in batches(read_documents(outputs(folder, "read", number)[0]), BATCH):
            tiers = _tiers(batch, folder, config)
            linted = _lint(batch, place.keys(), config)
            for document, (tier, verdict, about) in zip(batch, tiers, strict=True):
                columns = document.columns
                columns["licence"] = columns["licence"] or licences.folder_licence(
                    columns["path"], texts.get(columns["repository"], {})
                )
                if judge_copy(document, place.get(document.id), drops, config.threshold):
                    yield document
                    continue
                columns |= about | linted.get(document.id, {})
                rare = shares.get(document.language, 0.0) < config.low_resource_share
                if tier == LOW and not rare:
                    columns |= {"tier": LOW, "weight": 0.0}
                    document.judge(verdict)
                else:
                    kept = MODERATE if tier == LOW else tier
                    weight = config.high_weight if kept == HIGH else config.moderate_weight
                    columns |= {"tier": kept, "weight": weight, "low_resource": tier == LOW}
                yield document

    _write(folder, "quality", number, documents, dict)


def language_bytes(folder: Path, number: int) -> Counter[str]:
    """Bytes of text per language that `read` kept of a part."""
    counts = Counter[str]()
    for row in json.loads(outputs(folder, "read", number)[2].read_text(encoding="utf-8"))["funnel"]:
        if row["rule"] == "kept":
            counts[row["language"]] += row["bytes"]
    return counts


def _read_files(part: TreePart, config: CodeConfig, texts: dict[str, str]) -> Iterator[Document]:
    """A document for each entry, in the order of the entries; `texts` gathers the licences of folders."""
    fallen = {e.path: v for e in part.entries if (v := path_verdict(e.path, e.size, config.max_file_bytes)) is not None}
    wanted = [entry for entry in part.entries if entry.path not in fallen]
    place = {entry.path: number for number, entry in enumerate(part.entries)}
    ready = {place[path]: _blank(part.tree, path, verdict) for path, verdict in fallen.items()}
    due = 0
    try:
        for entry, content in read_tree(part.tree, wanted, limits(config)):
            ready[place[entry.path]] = _file(part.tree, entry, content, config, texts)
            while due in ready:
                yield ready.pop(due)
                due += 1
    except UserError as error:
        if part.tree.kind == "folder":  # its files were there when the run began
            raise
        for path, number in place.items():  # of a damaged archive or repository the rest falls
            if number >= due and number not in ready:
                ready[number] = _blank(part.tree, path, Verdict("unreadable", str(error), None))
    yield from (ready[number] for number in sorted(ready))


def _file(tree: Tree, entry: Entry, content: bytes, config: CodeConfig, texts: dict[str, str]) -> Document:
    if len(content) > config.max_file_bytes:  # the archive's own figure was wrong
        return _blank(tree, entry.path, Verdict("file_bytes", len(content), config.max_file_bytes))
    text, language, verdict = judge_content(entry.path, content)
    document = _blank(tree, entry.path, None)
    document.language = document.columns["source_language"] = language or UNKNOWN
    if is_licence(entry.path) and text:
        texts[entry.path.rpartition("/")[0]] = licence = licences.text_licence(text)
        verdict = Verdict("licence_text", licence, None)
    if verdict is None:
        try:
            form = convert(text, language)
        except Unconvertible as error:
            verdict = Verdict("unconvertible", str(error), None)
    if verdict is not None:  # what falls is kept beside, and read by people: without secrets too
        document.set_text(mask(text).text)
        document.judge(verdict)
        return document
    masked = mask(form.text)
    document.language = form.language
    document.set_text(masked.text)
    document.columns |= scores(masked.text, form.language) | {
        "licence": licences.header_licence(text),
        "masked_emails": masked.emails,
        "masked_ips": masked.ips,
        "masked_secrets": masked.secrets,
    }
    return document


def _blank(tree: Tree, path: str, verdict: Verdict | None) -> Document:
    names = {"repository": tree.name, "path": path, "source_language": UNKNOWN}
    document = Document(0, f"{tree.name}/{path}", "code", columns=names)
    document.judge(verdict)
    return document


def _tiers(batch: list[Document], folder: Path, config: CodeConfig) -> list[tuple[str, Verdict | None, dict[str, Any]]]:
    """(tier, why it is low, columns) of each file: the rules', or the model's where its language passed the bar."""
    tiers: list[tuple[str, Verdict | None, dict[str, Any]]] = []
    for document in batch:
        defect = low_quality(document.columns, document.language)
        tiers.append((rule_tier(document.columns, document.language), defect, {"scorer": "rules"}))
    if config.scorer is None:
        return tiers
    card = json.loads((folder / "scorer" / "card.json").read_text(encoding="utf-8"))
    passing = {language for language, about in card["languages"].items() if about["passes"]}
    # A low tier by the rules stays low: they name defects, the model a degree.
    scored = [i for i, document in enumerate(batch) if document.language in passing and tiers[i][0] != LOW]
    if scored:
        from ilm_ray.data.code.files.scorer import (
            Scorer,
            vectorise,
        )  # brings scikit-learn: seconds that the rules need not

        model = Scorer.load(folder / "scorer" / "scorer.npz")
        for i, chances in zip(scored, model.probabilities(vectorise([batch[i].text for i in scored])), strict=True):
            tier = TIERS[int(chances.argmax())]
            columns = {"scorer": "model", "model_score": round(float(chances[1] / 2 + chances[2]), 4)}
            verdict = Verdict("model_low", round(float(chances[0]), 4), None) if tier == LOW else None
            tiers[i] = (tier, verdict, columns)
    return tiers


def _lint(batch: list[Document], duplicates: Set[int], config: CodeConfig) -> dict[int, dict[str, Any]]:
    """Id -> lint columns of the Python files that are no duplicates; none where nobody asks for them."""
    if config.min_lint_score is None:
        return {}
    python = [document for document in batch if document.language == PYTHON and document.id not in duplicates]
    linted = lint_files([document.text for document in python])
    return {
        document.id: {"lint_score": lint.score, "lint_found": list(lint.kinds)}
        for document, lint in zip(python, linted, strict=True)
    }


def sign_files(texts: Sequence[str], threshold: float) -> Sketches:
    """The signatures of files for near-dedup; small ones share bands with their exact copies alone."""
    bands, width = bands_and_rows(max(threshold - BAND_MARGIN, 0.1), HASHES)
    sketches = sign_batch([canonical(text) for text in texts], NGRAM, HASHES, bands, width)
    small = np.array([len(TOKENS.findall(text)) < FEWEST_WORDS for text in texts], bool)
    sketches.bands[small] = sketches.exact[small, None]
    return sketches


def _sign(files: list[tuple[int, str]], path: Path, config: CodeConfig) -> None:
    parts = [sign_files([], config.threshold)]
    parts += [sign_files([text for _, text in batch], config.threshold) for batch in batches(files, BATCH)]
    save_arrays(
        path,
        ids=np.array([file for file, _ in files], np.uint64),
        exact=np.concatenate([part.exact for part in parts]),
        bands=np.concatenate([part.bands for part in parts]),
        signatures=np.concatenate([part.signatures for part in parts]),
    )


def _write(
    folder: Path,
    step: str,
    number: int,
    documents: Callable[[], Iterable[Document]],
    about: Callable[[], dict[str, Any]],
) -> None:
    """Split documents into kept and removed, count them, and write the three files, the statistics last."""
    kept_path, removed_path, stats = outputs(folder, step, number)
    funnel = Funnel()
    with JsonlWriter(kept_path) as kept, JsonlWriter(removed_path) as removed:
        for document in documents():
            funnel.add(step, document.drop_rule, document.language, document.dump, document.bytes)
            if document.drop_rule is not None:
                document.drop_step = step
            (removed if document.drop_rule else kept).write(document.row())
    write_text_atomic(stats, json.dumps({"funnel": funnel.rows(), **about()}, sort_keys=True))
