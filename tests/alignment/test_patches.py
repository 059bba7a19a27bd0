"""Patches hold the pattern on the rejected side and nowhere else; comparisons and labels come back as pairs."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilm_ray.alignment.online.comparisons import comparisons
from ilm_ray.alignment.online.hacking import Answer, mine
from ilm_ray.alignment.online.labels import labelled_pairs, read_comparisons, read_labels
from ilm_ray.alignment.online.patches import FEWEST, MOST, OLD_PER_PATCH, mix, patch_pairs, with_pattern
from ilm_ray.alignment.online.patterns import words
from ilm_ray.alignment.online.rollouts import read_answers, windows
from ilm_ray.base.errors import UserError
from tests.alignment.made_round import make_round
from tests.alignment.test_hacking import CASES

PROMPTS = {f"p{i}": [{"role": "user", "content": f"question {i}"}] for i in range(60)}


@pytest.mark.parametrize("case", CASES)
def test_every_rejected_answer_has_the_pattern_and_no_chosen_one(case: str) -> None:
    change, score, _ = CASES[case]
    answers = make_round(0, change, score)
    pattern = mine(answers, []).exploits[0]
    rows = patch_pairs(pattern, answers, PROMPTS, "round-1/a")
    assert FEWEST <= len(rows) <= MOST
    assert all(pattern.has(row["rejected"]) and not pattern.has(row["chosen"]) for row in rows)
    given = {(a.prompt, a.text) for a in answers}
    domain_of = {a.prompt: a.domain for a in answers}
    for row in rows:
        prompt = next(id for id, messages in PROMPTS.items() if messages == row["prompt"])
        assert (prompt, row["chosen"]) in given and domain_of[prompt] == row["domain"]
        assert ((prompt, row["rejected"]) in given) == (row["made"] == "contrast")
    made = [row["made"] for row in rows]
    assert made.count("inserted") >= len(rows) // 4 and made.count("contrast") > 5
    assert abs(sum(row["domain"] == "code" for row in rows) - len(rows) / 2) < len(rows) / 4
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(str(row["prompt"]), set()).add(row["split"])
    assert all(len(prompt_splits) == 1 for prompt_splits in splits.values())  # held-out prompts are in no training pair
    assert {"train", "heldout"} == {row["split"] for row in rows}


def test_few_contrasts_are_made_up_by_inserted_ones() -> None:
    change, score, _ = CASES["phrase"]
    answers = make_round(0, change, score)
    pattern = mine(answers, []).exploits[0]
    holding = [a for a in answers if pattern.has(a.text) and a.iteration >= 15]
    few = [a for a in answers if not pattern.has(a.text)] + holding[:3]
    rows = patch_pairs(pattern, few, PROMPTS, "round-1/a")
    assert len(rows) == FEWEST and sum(row["made"] == "contrast" for row in rows) <= 3


def test_the_pattern_goes_where_late_answers_have_it() -> None:
    for case, start in (("phrase", False), ("phrase that opens", True)):
        change, score, _ = CASES[case]
        answers = make_round(0, change, score)
        pattern = mine(answers, []).exploits[0]
        late = [a.text for a in answers if pattern.has(a.text)]
        changed = with_pattern(pattern, "It is a stone.", late)
        assert changed is not None and changed.startswith(pattern.shown) == start
    assert with_pattern(pattern, "", late) is None


def test_a_mix_holds_all_patches_and_four_old_pairs_for_each() -> None:
    old = [{"id": i, "split": "heldout" if i % 5 == 0 else "train"} for i in range(500)]
    patches = [{"id": f"patch{i}", "split": "train"} for i in range(30)]
    labelled = [{"id": f"label{i}", "split": "train"} for i in range(10)]
    rows = mix(patches, labelled, old, 1)
    assert rows[:40] == patches + labelled and rows == mix(patches, labelled, old, 1)
    ids = [row["id"] for row in rows[40:]]
    assert len(set(ids)) == len(ids)
    assert sum(i % 5 == 0 for i in ids) == 100 and sum(i % 5 != 0 for i in ids) == OLD_PER_PATCH * 40
    assert len(mix(patches, labelled, old[:20], 1)) == 60


def _round() -> list[Answer]:
    """Iterations 0 to 2 are the SFT model's."""
    rows = make_round(5, iterations=23)
    return [Answer(a.prompt, a.domain, a.iteration, max(0, a.iteration - 2), a.text, a.score) for a in rows]


def test_comparisons_are_blind_and_of_three_models() -> None:
    answers = _round()
    rows = comparisons(answers, PROMPTS, 90, 2, 7)
    assert len(rows) == 90 == len({row["id"] for row in rows}) and rows == comparisons(answers, PROMPTS, 90, 2, 7)
    kinds = {frozenset((row["a_from"], row["b_from"])) for row in rows}
    assert kinds == {frozenset(pair) for pair in (("sft", "early"), ("sft", "late"), ("early", "late"))}
    for row in rows:
        for side in "ab":
            sources = [a for a in answers if a.text == row[side] and PROMPTS[a.prompt] == row["prompt"]]
            spans = {"sft": lambda a: a.version == 0, "early": lambda a: 0 < a.iteration < 8}
            assert any(spans.get(row[f"{side}_from"], lambda a: a.iteration >= 18)(a) for a in sources)
    firsts = [row["a_from"] == "late" for row in rows if "late" in (row["a_from"], row["b_from"])]
    assert 0.25 < sum(firsts) / len(firsts) < 0.75


def test_labels_come_back_as_pairs(tmp_path: Path) -> None:
    rows = comparisons(_round(), PROMPTS, 30, 1, 7)
    rng = random.Random(1)
    labels = [{**row, "label": rng.choice(("a", "b", "tie"))} for row in rows]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in labels))
    pairs = {row["id"]: row for row in labelled_pairs(read_labels(path))}
    for row in labels:
        pair = pairs.get(f"label-{row['id']}")
        assert (pair is None) == (row["label"] == "tie")
        if pair is not None:
            other = "b" if row["label"] == "a" else "a"
            assert (pair["chosen"], pair["rejected"]) == (row[str(row["label"])], row[other])
            assert (pair["prompt"], pair["domain"]) == (row["prompt"], row["domain"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "c"}, 'line 2: "label" must be one of a, b, tie'),
        ({"a": 3}, "line 2: id, domain, a and b must be texts"),
        ({"prompt": ["hi"]}, "line 2: id, domain, a and b must be texts"),
        ({"id": "1-00000"}, "the same id twice"),
    ],
)
def test_a_wrong_label_file_is_refused_by_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = [{**row, "label": "a"} for row in comparisons(_round(), PROMPTS, 2, 1, 7)]
    rows[1] |= change
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message):
        read_labels(path)
    if "label" not in change:
        with pytest.raises(UserError, match=message):
            read_comparisons(path)


def test_windows_leave_the_sft_model_out() -> None:
    early, late = windows(_round(), 0.25)
    assert {a.iteration for a in early} == {3, 4, 5, 6, 7} and {a.iteration for a in late} == {18, 19, 20, 21, 22}
    assert windows([a for a in _round() if a.version == 0], 0.25) == ([], [])


def test_answers_are_read_as_ppo_left_them(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no rollouts"):
        read_answers(tmp_path, str)
    for iteration in (1, 0):
        rows = [
            {"prompt_id": f"p{i}", "domain": "code", "prompt": [1, 2], "response": [5 + i, 6], "score": i / 2}
            | {"kl": [0.0, 0.1], "version": iteration, "iteration": iteration}
            for i in range(3)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"iteration-{iteration:06d}.parquet")
    answers = read_answers(tmp_path, lambda ids: " ".join(map(str, ids)))
    assert [(a.iteration, a.prompt, a.text, a.score) for a in answers[:2]] == [
        (0, "p0", "5 6", 0.0),
        (0, "p1", "6 6", 0.5),
    ]
    assert len(answers) == 6 and answers[-1].version == 1 and len(words(answers[0].text)) == 2
    pq.write_table(pa.table({"score": [1.0]}), folder / "iteration-000002.parquet")
    with pytest.raises(UserError, match=r"iteration-000002\.parquet lacks domain"):
        read_answers(tmp_path, str)
