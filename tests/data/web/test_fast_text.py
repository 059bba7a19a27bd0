"""fastText models of others: scores by definition, a threshold by the labels, a line for each fault."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.web.classifiers.fast_text import FastText
from ilm_ray.data.web.classifiers.model import load_classifier
from jobs import train_classifier

pytest.importorskip("fasttext", reason="fastText is not installed: pip install fasttext-predict")

WORDS, LABELS, DIMENSION = (
    ("calm", "river", "stone", "loud", "sale", "offer", "</s>"),
    ("__label__hq", "__label__cc"),
    5,
)


def write_model(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A file as fastText 0.9 writes it: bags of words, softmax. Returns its two matrices, a row a word or label."""
    rng = np.random.default_rng(0)
    words = rng.normal(size=(len(WORDS), DIMENSION)).astype("<f4")
    labels = rng.normal(size=(len(LABELS), DIMENSION)).astype("<f4")
    words[:3] += 2 * (labels[0] - labels[1])
    words[3:6] -= 2 * (labels[0] - labels[1])
    settings = (DIMENSION, 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # softmax, supervised, no n-grams, no buckets
    data = struct.pack("<2i12id", 793712314, 12, *settings, 1e-4)
    data += struct.pack("<3i2q", len(WORDS) + len(LABELS), len(WORDS), len(LABELS), 100, -1)
    for kind, names in ((0, WORDS), (1, LABELS)):
        data += b"".join(name.encode() + b"\0" + struct.pack("<qb", 10, kind) for name in names)
    for matrix in (words, labels):
        data += b"\0" + struct.pack("<2q", *matrix.shape) + matrix.tobytes()
    path.write_bytes(data)
    return words, labels


def test_scores_are_those_of_the_definition(tmp_path: Path) -> None:
    words, labels = write_model(tmp_path / "hq.bin")
    texts = ["calm river", "loud sale\noffer offer", "calm sale unknown", "", "unknown"]
    expected = []
    for text in texts:
        rows = [WORDS.index(word) for word in [*text.split(), "</s>"] if word in WORDS]
        logits = labels.astype(np.float64) @ words[rows].astype(np.float64).mean(0)
        expected.append(1 / (1 + np.exp(logits[1] - logits[0])))
    for good in ("hq", "__label__hq"):
        assert FastText(tmp_path / "hq.bin", good).score(texts) == pytest.approx(expected, abs=1e-4)
    assert FastText(tmp_path / "hq.bin", "cc").score(texts) == pytest.approx(1 - np.array(expected), abs=1e-4)


def test_the_job_makes_a_classifier_with_a_threshold_of_the_labels(tmp_path: Path) -> None:
    write_model(tmp_path / "hq.bin")
    rng = np.random.default_rng(1)
    rows = []
    for number in range(200):
        words = rng.choice(WORDS[:3] if number % 2 else WORDS[3:6], 6)
        rows.append({"text": f"{' '.join(words)} t{number}", "label": number % 2})
    write_jsonl(tmp_path / "labels.jsonl", rows)
    made = ["--name", "fluency", "--out", str(tmp_path / "out"), str(tmp_path / "labels.jsonl")]
    brought = ["--backend", "fasttext", "--base", str(tmp_path / "hq.bin"), "--good-label", "hq"]
    assert train_classifier.main([*made, *brought]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["held_out"]["all"]["accuracy"] == 1.0 and card["kind"] == "fasttext"
    scores = load_classifier(tmp_path / "out").score(["calm stone", "sale"])
    assert scores[0] > card["threshold"] > scores[1]
    assert train_classifier.main(made + brought[:4]) == 2


def test_faults_are_named(tmp_path: Path) -> None:
    write_model(tmp_path / "hq.bin")
    with pytest.raises(UserError, match="has no label 'good' for good texts; it has cc, hq"):
        FastText(tmp_path / "hq.bin", "good")
    (tmp_path / "text.bin").write_text("no model at all " * 9)
    for name in ("text.bin", "absent.bin"):
        with pytest.raises(UserError, match=f"{name} is no fastText model"):
            FastText(tmp_path / name, "hq")
