"""A text stage's folder made from documents whose scores and fates are known, with hostile text wherever it may stand.

`fate` is the oracle: the five steps' decisions as plain comparisons, one document at a time.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.documents.paths import write_sources
from ilm_ray.data.documents.sources import Source
from ilm_ray.run.manifest import Manifest, commit

HOSTILE = (
    "</style></div><script>alert('owned')</script><img src=x onerror=alert(1)> \" ' & \x00\x1b[31m \ud800 \u202egnorts "
    'javascript:alert(1) <a href="javascript:alert(1)">here</a> <svg onload=alert(1)> 一段中文。'
)
STEPS_OF = {"cleaned": ("format", "clean"), "final": ("dedup", "safe", "quality")}
STEPS = (*STEPS_OF["cleaned"], *STEPS_OF["final"])
DUMPS = ("CC-MAIN-2024-10", "CC-MAIN-2023-50")
FILES = 4
SETTINGS: dict[str, Any] = {
    "languages": ["en", "zh"],
    "min_chars": 200,
    "max_html_bytes": 4_000_000,
    "rules": {
        "en": {"symbol_ratio": [None, 0.25], "mean_word_chars": [2.5, 10.0], "duplicate_line_ratio": [None, 0.3]},
        "zh": {"symbol_ratio": [None, 0.35], "mean_word_chars": [None, None], "duplicate_line_ratio": [None, 0.3]},
        "*": {"symbol_ratio": [None, 0.25]},
    },
    "threshold": 0.7,
    "verify": True,
    "sources": {"papers": {"input": "papers/*.jsonl", "settings": {"rules": {"en": {"symbol_ratio": [None, 0.6]}}}}},
    "classifiers": {
        "toxicity": {"threshold": 0.4},
        "pornography": {"threshold": 0.45},
        "advertisement": {"threshold": 0.4},
        "fluency": {"threshold": 0.3},
    },
}
Document = dict[str, Any]


def make_documents(count: int = 600, seed: int = 7) -> list[Document]:
    """Documents with every score; ids as `sources.py` makes them (rank, file, row), copies after their originals."""
    rng = random.Random(seed)
    rows: Counter[int] = Counter()
    documents: list[Document] = []
    for i in range(count):
        file = i * FILES // count
        dump = DUMPS[file * len(DUMPS) // FILES]
        number = file % (FILES // len(DUMPS))
        language = rng.choices(["en", "zh", "de"], [6, 3, 1])[0]
        document = {
            "file": file,
            "id": (16_000 + DUMPS.index(dump)) << 48 | number << 28 | rows[file],
            "url": f"https://host{i % 50}.test/page?<b>&q={i // 2}",  # two neighbours share one
            "dump": dump,
            "source": "papers" if rng.random() < 0.1 else "",
            "date": "2024-03-01T00:00:00Z",
            "charset": "utf-8",
            "language": language,
            "language_score": 0.99,
            "text": f"Document {i}. {rng.choice([HOSTILE, ''])}\n" + "The river is long. " * rng.randint(1, 40),
            "raw_text": f"Cookies\u00a0{HOSTILE}\nDocument {i}.",
            "symbol_ratio": round(rng.betavariate(1.5, 8), 4),
            "mean_word_chars": round(rng.gauss(5, 2), 4),
            "duplicate_line_ratio": round(rng.betavariate(1, 8), 4),
            "blocked_words": rng.choices([0, 1, 2, 5], [20, 1, 1, 1])[0],
            **{f"{name}_score": round(rng.betavariate(6, 2), 4) for name in SETTINGS["classifiers"]},
            "copy_of": None,
            "exact": False,
            "similarity": None,
        }
        document["chars"], document["bytes"] = len(document["text"]), len(document["text"].encode("utf-8", "replace"))
        document["extracted_chars"], document["line_num"] = document["chars"], document["text"].count("\n") + 1
        rows[file] += 1
        documents.append(document)
    survivors = [d for d in documents if (fate(d) or ("dedup", ""))[0] not in ("format", "clean")]
    for document in rng.sample(survivors[20:], len(survivors) // 4):
        original = rng.choice(survivors[:20])
        document["copy_of"], document["exact"] = original["id"], rng.random() < 0.3
        document["similarity"] = 1.0 if document["exact"] else rng.randint(84, 128) / 128
    return documents


def fate(d: Document, settings: dict[str, Any] = SETTINGS) -> tuple[str, str] | None:
    """(step, rule) that removes the document first, or None."""
    rules = dict(settings["rules"].get(d["language"]) or settings["rules"]["*"])
    if d["source"]:
        rules |= settings["sources"][d["source"]]["settings"]["rules"].get(d["language"], {})
    if d["extracted_chars"] < settings["min_chars"]:
        return "format", "min_chars"
    if d["language"] not in settings["languages"]:
        return "format", "language"
    for rule, (low, high) in rules.items():
        if (low is not None and d[rule] < low) or (high is not None and d[rule] > high):
            return "clean", rule
    if d["exact"]:
        return "dedup", "exact_duplicate"
    if d["copy_of"] is not None and d["similarity"] >= settings["threshold"]:
        return "dedup", "near_duplicate"
    if d["blocked_words"] > settings.get("allowed_blocked_words", 0):
        return "safe", "blocked_word"
    for step, names in (("safe", ("toxicity", "pornography")), ("quality", ("advertisement", "fluency"))):
        for name in names:
            if d[f"{name}_score"] < settings["classifiers"][name]["threshold"]:
                return step, name
    return None


def write_text_run(run: Path, documents: list[Document]) -> None:
    """`run/text` and `run/config.yaml` as the text stage leaves them."""
    folder = run / "text"
    fates = {d["id"]: fate(d) for d in documents}
    funnel: Counter[tuple[str, str, str, str]] = Counter()
    size: Counter[tuple[str, str, str, str]] = Counter()
    removed: dict[int, list[dict[str, Any]]] = defaultdict(list)
    costs: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    alive = documents
    for place, step in enumerate(STEPS):
        fell = {d["id"]: at[1] for d in alive if (at := fates[d["id"]]) is not None and at[0] == step}
        for d in alive:
            key = (step, fell.get(d["id"], "kept"), d["language"], d["dump"])
            funnel[key] += 1
            size[key] += d["bytes"]
        for file in range(FILES):
            mine = [d for d in alive if d["file"] == file]
            removed[file] += [_row(d, place, fell[d["id"]]) for d in mine if d["id"] in fell]
            size_in = sum(d["bytes"] for d in mine)
            costs[file][step] = {"documents": len(mine), "bytes": size_in, "seconds": 2.5, "peak_mb": 100 + file}
        alive = [d for d in alive if d["id"] not in fell]
        (made_by,) = (name for name, steps in STEPS_OF.items() if step in steps)
        if step != STEPS_OF[made_by][-1]:
            continue
        for file in range(FILES):
            kept = [_row(d, place, None) for d in alive if d["file"] == file]
            write_jsonl(folder / made_by / f"kept-{file:05d}.jsonl.zst", kept)
            write_jsonl(folder / made_by / f"removed-{file:05d}.jsonl.zst", removed.pop(file))
            (folder / "cost").mkdir(exist_ok=True)
            (folder / "cost" / f"{made_by}-{file:05d}.json").write_text(json.dumps(costs.pop(file)))
    (folder / "dedup").mkdir()
    _drop_lists(folder, documents, fates)
    files = len(DUMPS) * [*range(FILES // len(DUMPS))]
    write_sources(folder, [Source(i, 16_000 + i * len(DUMPS) // FILES, n, DUMPS[i * len(DUMPS) // FILES], f"{i}.warc")
                           for i, n in enumerate(files)])  # fmt: skip
    keys = ("step", "rule", "language", "dump")
    rows = [
        dict(zip(keys, key, strict=True)) | {"documents": funnel[key], "bytes": size[key]} for key in sorted(funnel)
    ]
    (folder / "funnel.json").write_text(json.dumps(rows))
    records = {"html": len(documents), "revisit": 12, "malformed": 2, "skipped_bytes_truncated_gzip": 5000}
    (folder / "records.json").write_text(json.dumps(records))
    curve = [{"threshold": t / 10, "precision": 0.9, "recall": 1 - t / 20, "removed": t / 20} for t in range(1, 10)]
    measured = {"held_out": 90, "auc": 0.987, "accuracy": 0.954}
    cards = {n: {"train": 360, "all": measured, "en": measured, "curve": curve} for n in SETTINGS["classifiers"]}
    metrics = {
        "summary": {"kept": len(alive)},
        "dedup": {"bands": 14, "rows": 9},
        "classifiers": cards,
    }
    order = {"": {code: [*table] for code, table in SETTINGS["rules"].items()}}
    settings = {"seed": 1234, "text": SETTINGS, "rule_order": order}
    commit(folder, Manifest("text", settings, {}, {}, metrics, 41.0, 900.0))
    config = {"seed": 1234, "text": SETTINGS | {"shuffle_partitions": 4}}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _row(d: Document, place: int, rule: str | None) -> dict[str, Any]:
    """What the row holds once `STEPS[place]` has looked at it."""
    names = ["id", "url", "dump", "source", "date", "charset", "language", "language_score", "text", "chars", "bytes"]
    names += ["extracted_chars", "line_num"]
    names += [*SETTINGS["rules"]["en"]] * (place >= 1)
    names += ["blocked_words", "toxicity_score", "pornography_score"] * (place >= 3)
    names += ["advertisement_score", "fluency_score"] * (place >= 4)
    if place >= 1 and d["id"] % 16 == 0:
        names.append("raw_text")
    row = {name: d[name] for name in names} | {"id": str(d["id"])}
    if rule is None:
        return row
    row |= {"drop_step": STEPS[place], "drop_rule": rule, "drop_value": row.get(rule, 0.123456), "threshold": 0.4}
    if rule in ("exact_duplicate", "near_duplicate"):
        row |= {"duplicate_of": str(d["copy_of"]), "similarity": d["similarity"]}
    return row


def _drop_lists(folder: Path, documents: Iterable[Document], fates: dict[int, tuple[str, str] | None]) -> None:
    for file in range(FILES):
        gone = [d for d in documents if d["file"] == file and (fates[d["id"]] or ("",))[0] == "dedup"]
        np.savez(
            folder / "dedup" / f"drops-{file:05d}.npz",
            ids=np.array([d["id"] for d in gone], np.uint64),
            duplicate_of=np.array([d["copy_of"] for d in gone], np.uint64),
            similarity=np.array([d["similarity"] for d in gone], np.float32),
            exact=np.array([d["exact"] for d in gone], bool),
        )
