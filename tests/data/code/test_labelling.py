"""The labelling loop on simulated annotators, and its command."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.code.files.labelling import CodeSample, merge, run_round
from ilm_ray.data.code.files.scorer import BAR, Scorer, agreement, vectorise
from ilm_ray.data.code.files.scores import TIERS
from ilm_ray.data.code.files.selection import tree_fingerprints
from ilm_ray.data.code.pipeline import build_code_data
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Context
from jobs.label_code import main

_WORDS = [f"name{i}" for i in range(300)]
_TELLING = {
    "low": ["tmp", "foo", "asdf", "xxx"],
    "moderate": ["get", "set", "size"],
    "high": ["parse", "verify", "merge"],
}


def _sample(number: int, language: str = "python") -> CodeSample:
    """A file whose true tier shows in four of its names; four more of that kind are drawn from all tiers."""
    rng = random.Random(number)
    tier = rng.choices(TIERS, weights=[2, 5, 3])[0]
    telling = rng.choices(_TELLING[tier], k=4) + rng.choices(
        [name for names in _TELLING.values() for name in names], k=4
    )
    words = rng.choices(_WORDS, k=40) + telling
    rng.shuffle(words)
    text = "\n".join(f"    {a} = {b}({c})" for a, b, c in zip(words[::3], words[1::3], words[2::3], strict=False))
    return CodeSample(f"{language}-{number}", language, f"def f():\n{text}\n", tier)


class Annotator:
    """Knows the truth and is wrong at random: often at first sight, seldom when a proposal makes it look closely."""

    def __init__(self, truth: dict[str, str], seed: int) -> None:
        self.truth, self.rng = truth, random.Random(seed)

    def label(self, sample: CodeSample, error: float) -> CodeSample:
        right = self.truth[sample.id]
        wrong = self.rng.choice([tier for tier in TIERS if tier != right])
        return sample._replace(tier=wrong if self.rng.random() < error else right)


@pytest.mark.long
def test_three_rounds_agree_more_and_find_earlier_mistakes() -> None:
    everything = [_sample(number) for number in range(1500)]
    truth = {sample.id: sample.tier for sample in everything}
    annotator = Annotator(truth, seed=3)
    validation = everything[:400]
    labels = [annotator.label(sample, error=0.25) for sample in everything[400:650]]
    pool = [sample._replace(tier="") for sample in everything[650:]]

    def wrong(samples: list[CodeSample]) -> int:
        return sum(truth[sample.id] != sample.tier for sample in samples)

    first = {sample.id for sample in labels}
    mistakes, agreements = [wrong(labels)], []
    for _ in range(3):
        done = run_round(labels, pool, validation, checks=200, seed=1)
        agreements.append(done.agreement["python"].agreement)
        assert all(task.proposed in ("high", "low") for task in done.tasks if task.why == "check")
        again = [task.sample for task in done.tasks if task.why == "revalidate"]
        # Asking again pays: mistakes are denser among the doubtful labels than among all.
        assert not again or wrong(again) / len(again) > wrong(labels) / len(labels)
        labels, _ = merge(labels, [annotator.label(task.sample, error=0.05) for task in done.tasks])
        mistakes.append(wrong([sample for sample in labels if sample.id in first]))
    agreements.append(run_round(labels, pool, validation, checks=0, seed=1).agreement["python"].agreement)
    print("agreement", agreements, "mistakes among the first labels", mistakes)
    assert agreements[-1] >= agreements[0] + 0.04
    assert mistakes[-1] <= 0.5 * mistakes[0]


def test_a_round_depends_on_its_arguments_alone() -> None:
    samples = [_sample(number) for number in range(200)]
    first = run_round(samples[:120], samples[120:160], samples[160:], checks=20, seed=1)
    second = run_round(samples[119::-1], samples[159:119:-1], samples[160:], checks=20, seed=1)
    assert first.tasks == second.tasks and first.agreement == second.agreement
    assert np.array_equal(first.scorer.weights, second.scorer.weights)


def test_a_language_needs_agreement_and_labels() -> None:
    predicted, labelled = np.zeros(100, int), np.array([0] * 85 + [1] * 15)
    languages = ["go"] * 60 + ["python"] * 30 + ["rust"] * 10
    agreements = agreement(predicted, labelled, languages)
    assert agreements["go"].agreement == 1.0 and agreements["go"].passes
    assert agreements["python"].agreement == pytest.approx(25 / 30, abs=1e-4) and agreements["python"].passes
    assert agreements["rust"].agreement == 0.0 and not agreements["rust"].passes
    assert not agreement(predicted[:19], labelled[:19], languages[:19])["go"].passes


def test_layout_is_nothing_the_scorer_can_learn(tmp_path: Path) -> None:
    samples = [_sample(number) for number in range(60)]
    vectors = vectorise([sample.text for sample in samples])
    other = vectorise([sample.text.replace("    ", "\t") + "\n\n" for sample in samples])
    assert (vectors != other).nnz == 0
    scorer = Scorer.fit(vectors, np.array([TIERS.index(sample.tier) for sample in samples]), seed=1)
    chances = scorer.probabilities(vectors)
    assert np.allclose(chances.sum(axis=1), 1.0) and (chances >= 0).all()
    scorer.save(tmp_path / "scorer.npz")
    assert np.array_equal(Scorer.load(tmp_path / "scorer.npz").probabilities(vectors), chances)
    (tmp_path / "scorer.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="no code scorer"):
        Scorer.load(tmp_path / "scorer.npz")


def test_the_command_goes_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [_sample(number) for number in range(300)]
    labels, pool, validation = (tmp_path / f"{name}.jsonl" for name in ("labels", "pool", "validation"))
    write_jsonl(labels, (s._asdict() for s in samples[:150]))
    write_jsonl(pool, (s._replace(tier="")._asdict() for s in samples[150:250]))
    write_jsonl(validation, (s._asdict() for s in samples[250:]))
    out = tmp_path / "out"
    arguments = ["--labels", str(labels), "--pool", str(pool), "--validation", str(validation), "--out", str(out)]
    assert main(["round", *arguments, "--checks", "10"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    tasks = list(read_jsonl(out / "tasks.jsonl"))
    assert len(tasks) == summary["checks"] + summary["revalidations"] and 0 < summary["checks"] <= 10
    assert json.loads((out / "card.json").read_text())["languages"]["python"]["labels"] == 50
    truth = {sample.id: sample.tier for sample in samples}
    write_jsonl(tmp_path / "answers.jsonl", (task | {"tier": truth[task["id"]]} for task in tasks))
    merged = tmp_path / "merged.jsonl"
    assert (
        main(["merge", "--labels", str(labels), "--answers", str(tmp_path / "answers.jsonl"), "--out", str(merged)])
        == 0
    )
    assert len(list(read_jsonl(merged))) == 150 + summary["checks"]
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "language": "c", "text": "x", "tier": "great"}\n')
    assert main(["merge", "--labels", str(tmp_path / "bad.jsonl"), "--answers", str(labels), "--out", str(merged)]) == 2
    assert "bad.jsonl line 1" in capsys.readouterr().err
    assert main(["round"]) == 2


def test_the_stage_asks_the_scorer_where_it_passed(local_ray: None, tmp_path: Path) -> None:
    samples = [_sample(number) for number in range(700)]
    labels, pool, validation = (tmp_path / f"{name}.jsonl" for name in ("labels", "pool", "validation"))
    write_jsonl(labels, (s._asdict() for s in samples[:500]))
    write_jsonl(pool, iter(()))
    write_jsonl(validation, (s._asdict() for s in samples[500:600]))
    scorer = tmp_path / "scorer"
    arguments = ["--labels", str(labels), "--pool", str(pool), "--validation", str(validation), "--out", str(scorer)]
    assert main(["round", *arguments]) == 0
    source = tmp_path / "in"
    source.mkdir()
    truth = {f"{sample.id}.py": sample for sample in samples[600:]} | {
        f"{sample.id}.rb": sample for sample in (_sample(number, "ruby") for number in range(700, 720))
    }
    for name, sample in truth.items():
        (source / name).write_text(sample.text)
    config = load_config("nano", None, [f"code.source={source}", f"code.scorer={scorer}"])
    build_code_data(Context(config, tmp_path / "code", tmp_path, Journal(tmp_path / "journal.jsonl")))
    kept, removed = (
        {row["path"]: row for row in read_jsonl(tmp_path / f"code/files/quality/{fate}-00000.jsonl.zst")}
        for fate in ("kept", "removed")
    )
    rows = kept | removed
    assert rows.keys() == truth.keys()
    assert all(row["scorer"] == ("model" if path.endswith(".py") else "rules") for path, row in rows.items())
    assert removed and all(row["drop_rule"] == "model_low" for row in removed.values())
    python = [path for path in truth if path.endswith(".py")]
    assert sum(rows[path]["tier"] == truth[path].tier for path in python) / len(python) >= BAR
    (tmp_path / "scorer/card.json").unlink()
    with pytest.raises(UserError, match=r"card\.json is missing"):
        tree_fingerprints(config.code)
