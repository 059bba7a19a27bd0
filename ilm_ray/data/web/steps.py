"""The steps of web text, each from documents to judged documents; `pipeline.py` lists them in their order."""

import functools
import json
from pathlib import Path

import numpy as np

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import batches
from ilm_ray.base.places import located
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.drops import judge_copy, load_drops
from ilm_ray.data.dedup.minhash import bands_and_rows, sign_batch
from ilm_ray.data.documents.document import Document, Verdict, read_documents
from ilm_ray.data.documents.passes import BATCH, Batches, FileTask
from ilm_ray.data.documents.paths import (
    CLEANED,
    drops_path,
    model_path,
    outputs,
    save_arrays,
    signatures_path,
)
from ilm_ray.data.documents.scores import score_batch
from ilm_ray.data.tokenizer.cl100k import cl100k_encoding
from ilm_ray.data.web.classifiers.card import read_card
from ilm_ray.data.web.classifiers.model import Classifier, load_classifier
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures, own_scores, read_rule
from ilm_ray.data.web.format.documents import format_documents
from ilm_ray.data.web.safe.blocklist import Domains, Words, read_words

DOMAINS, WORDS = "domains.npy", "words.json"
RAW_EVERY = 64  # of the documents that Clean changes, this share keeps the text it had, for the report


def format_file(_: Batches, task: FileTask) -> Batches:
    """Records of an archive -> documents with main text, title, language and id."""
    return batches(format_documents(task.source, task.config, task.records), BATCH)


def clean(documents: Batches, task: FileTask) -> Batches:
    """Normalise and score the documents, and remove those that break a rule."""
    functions = {name: read_rule(name, path) for name, path in task.config.own_rules.items()}
    for batch in documents:
        for document in batch:
            text, document.columns["removed_lines"] = drop_chrome(normalise(document.text))
            if text != document.text and document.id % RAW_EVERY == 0:
                document.columns["raw_text"] = document.text
            document.set_text(text)
        languages = [document.language for document in batch]
        texts = [document.text for document in batch]
        scores = score_batch(texts, languages) | own_scores(texts, functions)
        verdicts = first_failures(scores, languages, task.config.rules)
        table = np.stack([*scores.values()], 1).tolist()
        for document, values, verdict in zip(batch, table, verdicts, strict=True):
            document.columns.update(zip(scores, values, strict=True))
            document.judge(verdict)
        yield batch


def sign(documents: Batches, task: FileTask) -> Batches:
    """Remove nothing; save exact keys, band keys and signatures of all documents, for the shuffle."""
    config = task.config
    bands, width = bands_and_rows(config.threshold, config.num_hashes)
    ids: list[int] = []
    sketches = [sign_batch([], config.ngram, config.num_hashes, bands, width)]
    for batch in documents:
        ids += [document.id for document in batch]
        texts = [document.text for document in batch]
        sketches.append(sign_batch(texts, config.ngram, config.num_hashes, bands, width))
        yield batch
    save_arrays(
        signatures_path(task.folder, task.source.index),
        ids=np.array(ids, np.uint64),
        exact=np.concatenate([sketch.exact for sketch in sketches]),
        bands=np.concatenate([sketch.bands for sketch in sketches]),
        signatures=np.concatenate([sketch.signatures for sketch in sketches]),
    )


def drop_duplicates(_: Batches, task: FileTask) -> Batches:
    """Cleaned documents; those on the file's drop list fall."""
    drops = load_drops(drops_path(task.folder, task.source.index))
    place = {document: position for position, document in enumerate(drops.ids.tolist())}
    for batch in batches(read_documents(outputs(task.folder, CLEANED, task.source.index)[0]), BATCH):
        for document in batch:
            judge_copy(document, place.get(document.id), drops, task.config.threshold)
        yield batch


def safe(documents: Batches, task: FileTask) -> Batches:
    """Blocked domains, blocked words, toxicity, pornography; a list or classifier that is not named is off."""
    config, folder = task.config, task.folder / "safe"
    bounds = _bounds(task, "toxicity", "pornography")
    domains = Domains.load(folder / DOMAINS) if config.blocked_domains else None
    words = Words(json.loads((folder / WORDS).read_text(encoding="utf-8"))) if config.blocked_words else None
    for batch in documents:
        blocked = domains.match_batch([document.url for document in batch]) if domains else [None] * len(batch)
        for document, domain in zip(batch, blocked, strict=True):
            listed = words.matches(document.text) if words else []
            if words:
                document.columns["blocked_words"] = len(listed)
            if domain is not None:
                document.judge(Verdict("blocked_domain", domain, None))
            elif listed:
                document.judge(Verdict("blocked_word", listed[0], None))
        _classified(batch, bounds, task.folder)
        yield batch


def quality(documents: Batches, task: FileTask) -> Batches:
    """Remove by advertisement and fluency, unless they are off; count the tokens of those that stay."""
    bounds = _bounds(task, "advertisement", "fluency")
    encoding = cl100k_encoding()  # ours has no vocabulary yet
    for batch in documents:
        _classified(batch, bounds, task.folder)
        for document in batch:
            if document.drop_rule is None:
                document.token_num = len(encoding.encode_ordinary(document.text))
        yield batch


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


def _bounds(task: FileTask, *names: str) -> dict[str, float]:
    """Classifier -> threshold, of those that are on: the one that is set, else that of its card."""
    on = {name: each for name in names if (each := getattr(task.config.classifiers, name)).named}
    return {
        name: read_card(model_path(task.folder, name))["threshold"] if each.threshold is None else each.threshold
        for name, each in on.items()
    }


def copy_own_rules(folder: Path, config: TextConfig) -> TextConfig:
    """`config` with its rules of one's own read from copies in the stage's folder, as the block lists are."""
    copies = {name: folder / "rules" / f"{name}.py" for name in config.own_rules}
    for name, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(copy, Path(located(config.own_rules[name])).read_text(encoding="utf-8"))
    return config.model_copy(update={"own_rules": {name: str(copy) for name, copy in copies.items()}})


@functools.lru_cache(maxsize=4)
def _classifier(folder: Path) -> Classifier:
    return load_classifier(folder)  # once a worker process, not once a file


def _classified(batch: list[Document], bounds: dict[str, float], folder: Path) -> None:
    """Add `<name>_score` of each classifier; the first one below its bound removes a document that no other step has
    removed."""
    texts = [document.text for document in batch]
    for name, bound in bounds.items():
        scores = _classifier(model_path(folder, name)).score(texts).round(4).tolist()
        for document, score in zip(batch, scores, strict=True):
            document.columns[f"{name}_score"] = score
            if document.drop_rule is None and score < bound:
                document.judge(Verdict(name, score, bound))
