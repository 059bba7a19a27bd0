"""The card of a classifier: its data, its figures on held-out labels, the share that each threshold would remove."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.data.web.classifiers.labels import Labels, Split

FILE = "card.json"
_STEPS = np.arange(1, 100) / 100  # thresholds looked at

NEAREST, NEAREST_CHARS = 8, 300  # texts on each side of the threshold to look at, and what is shown of one

Card = dict[str, Any]


def make_card(name: str, kind: str, score: Callable[[list[str]], np.ndarray], parts: Split, made_from: Card) -> Card:
    """Score the texts that did not train and describe the result; `made_from` goes into the card as it is (labels,
    seed, base)."""
    tuned, held = score(parts.threshold.texts), score(parts.held_out.texts)
    threshold = choose_threshold(tuned, parts.threshold.good)
    good, languages = parts.held_out.good, np.array(parts.held_out.languages)
    by_language = {str(code): languages == code for code in sorted(set(parts.held_out.languages))}
    return {
        "name": name,
        "kind": kind,
        "meaning": "probability of GOOD; below the threshold a text falls",
        "made_from": made_from,
        "rows": {part: describe(labels) for part, labels in vars(parts).items()},
        "threshold": threshold,
        "held_out": {
            "all": measures(held, good, threshold),
            **{code: measures(held[mask], good[mask], threshold) for code, mask in by_language.items()},
        },
        "curve": curve(held, good),
        "nearest": nearest(parts.held_out, held, threshold),
    }


def describe(labels: Labels) -> Card:
    """A set of labels in a model card: counts of texts, of good ones, and by language."""
    codes, counts = np.unique(np.array(labels.languages, str), return_counts=True)
    return {
        "texts": len(labels.texts),
        "good": int(labels.good.sum()),
        "languages": dict(zip(codes.tolist(), counts.tolist(), strict=True)),
    }


def measures(scores: np.ndarray, good: np.ndarray, threshold: float) -> Card:
    """Figures at `threshold`; F1 is that of the bad texts. AUC is None where only one class is there."""
    from sklearn.metrics import roc_auc_score

    both = 0 < int(good.sum()) < len(good)
    auc = {"auc": round(float(roc_auc_score(good, scores)), 4) if both else None}
    return {"texts": len(good), **auc, **_at(scores, good, threshold)}


def _at(scores: np.ndarray, good: np.ndarray, threshold: float) -> dict[str, float]:
    removed, bad = scores < threshold, ~good
    hits = int((removed & bad).sum())
    return {
        "accuracy": round(float((removed == bad).mean()), 4),
        "f1": round(2 * hits / max(1, int(removed.sum()) + int(bad.sum())), 4),
        "precision": round(hits / max(1, int(removed.sum())), 4),
        "recall": round(hits / max(1, int(bad.sum())), 4),
    }


def curve(scores: np.ndarray, good: np.ndarray) -> list[dict[str, float]]:
    """For each threshold: share of the removed that is bad, share of the bad that is removed, share removed."""
    rows = []
    for threshold in _STEPS[4::5].tolist():
        figures = _at(scores, good, threshold)
        removed = round(float((scores < threshold).mean()), 4)
        rows.append({"threshold": threshold, "precision": figures["precision"], "recall": figures["recall"],
                     "removed": removed})  # fmt: skip
    return rows


def nearest(labels: Labels, scores: np.ndarray, threshold: float) -> list[Card]:
    """The texts whose scores lie next to the threshold, NEAREST on each side at most, lowest score first."""
    order = np.argsort(scores, kind="stable")
    border = int(np.searchsorted(scores[order], threshold))
    chosen = order[max(0, border - NEAREST) : border + NEAREST]
    return [
        {"score": round(float(scores[i]), 4), "good": bool(labels.good[i]), "text": labels.texts[i][:NEAREST_CHARS]}
        for i in chosen
    ]


def choose_threshold(scores: np.ndarray, good: np.ndarray) -> float:
    """The threshold that makes the fewest mistakes; of several the middle one."""
    mistakes = [int(((scores < threshold) == good).sum()) for threshold in _STEPS.tolist()]
    best = np.flatnonzero(np.array(mistakes) == min(mistakes))
    return float(_STEPS[best[len(best) // 2]])


def write_card(folder: Path, card: Card) -> None:
    """`card.json`, written last: a folder that has it is complete."""
    write_text_atomic(folder / FILE, json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False))


def read_card(folder: Path) -> Card:
    """Raises UserError where the folder holds no complete classifier."""
    try:
        card = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(card, dict) or card.get("kind") not in ("linear", "bert", "fasttext"):
            raise ValueError("its kind is unknown")
        if not isinstance(card.get("threshold"), (int, float)):
            raise ValueError("it has no threshold")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no classifier ({FILE}: {error}); name a folder that jobs/train_classifier.py wrote"
        ) from None
    return card
