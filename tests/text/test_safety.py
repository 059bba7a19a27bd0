"""Classifiers, funnel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from ilm_ray.corpus.jsonl import write_jsonl
from ilm_ray.errors import UserError
from ilm_ray.text.classifier import Classifier, Labels, read_labels, train
from ilm_ray.text.funnel import Funnel


def labelled(count: int) -> Labels:
    rng = np.random.default_rng(0)
    good = rng.random(count) < 0.5
    words = [("calm", "river", "stone") if g else ("loud", "sale", "offer") for g in good]
    texts = [" ".join(rng.choice(w, 6)) + f" page {i}" for i, w in enumerate(words)]
    return Labels(texts, good, ["en"] * count)


def test_a_classifier_learns_scores_good_high_and_survives_saving(tmp_path: Path) -> None:
    classifier, card = train(labelled(200), seed=1)
    assert card["all"]["auc"] > 0.99 and card["all"]["held_out"] == 40
    scores = classifier.score(["calm river stone", "loud sale offer"])
    assert scores[0] > 0.5 > scores[1]
    classifier.save(tmp_path / "m.npz")
    assert np.array_equal(Classifier.load(tmp_path / "m.npz").score(["calm sale"]), classifier.score(["calm sale"]))
    first = (tmp_path / "m.npz").read_bytes()
    train(labelled(200), seed=1)[0].save(tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == first
    (tmp_path / "m.npz").write_bytes(first[:100])
    with pytest.raises(UserError, match="no classifier"):
        Classifier.load(tmp_path / "m.npz")


def test_training_does_not_depend_on_the_machines_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fit = LogisticRegression.fit

    def watched(*arguments: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(*arguments)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    with threadpool_limits(2):
        train(labelled(20), seed=1)
    assert set(seen) == {1}


@pytest.mark.parametrize("rows", [[], [{"text": "a", "label": 1}] * 20, [{"text": "a", "label": 3}], [{"label": 1}]])
def test_wrong_labels_are_refused(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(UserError, match=r"x\.jsonl"):
        read_labels(tmp_path / "x.jsonl")


def test_funnels_of_parts_merge_to_the_funnel_of_the_whole() -> None:
    rows = [
        {"language": "en" if i % 3 else "zh", "dump": f"d{i % 2}", "bytes": i}
        | ({"drop_rule": "min_chars"} if i % 5 == 0 else {})
        for i in range(60)
    ]
    whole, merged = Funnel(), Funnel()
    for row in rows:
        whole.add("format", row)
    for part in (rows[:13], rows[13:]):
        funnel = Funnel()
        for row in part:
            funnel.add("format", row)
        merged.merge(funnel.rows())
    assert merged.rows() == whole.rows()
    assert whole.documents("format") == 60 and whole.documents("format", kept=False) == 12
    assert sum(r["bytes"] for r in whole.rows()) == sum(range(60))
