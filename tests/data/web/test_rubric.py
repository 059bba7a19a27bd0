"""Labels by a model behind an endpoint; the endpoint's verdicts are rules here. In `make test`: it serves HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.documents.document import Document
from ilm_ray.data.web.classifiers.card import read_card
from ilm_ray.data.web.classifiers.model import load_classifier
from ilm_ray.data.web.classifiers.rubric import points_of, sample
from jobs import label_documents
from tests.endpoints import Reply, answering

SOLD = "Buy our {} now, free shipping, best price, order today, limited offer number {}."
TOLD = "The {} was built by people of the valley, who used stone from the river and wood number {}."


def documents() -> list[Document]:
    made = []
    for number in range(160):
        document = Document(number + 2**53, f"https://e.org/{number}", "CC", language="en")
        document.set_text((SOLD if number % 2 else TOLD).format(("mill", "bridge", "tower")[number % 3], number))
        made.append(document)
    return made


def verdict(messages: list[dict[str, Any]]) -> Reply:
    """A model that finds advertising. It says nothing of texts with a 7, and fails at those with `number 3`."""
    system, user = (message["content"] for message in messages)
    assert "advertising" in system
    if "number 3" in user:
        return 404
    if "7" in user:
        return "I would rather not say."
    return "It sells. Score: 0" if user.startswith("Buy") else "It tells, score 1 to 5 is apt.\n**Score:** 5"


@pytest.mark.long
def test_a_sample_is_labelled_once_and_gives_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [document.row() for document in documents()]
    write_jsonl(tmp_path / "run" / "text" / "final" / "kept-00000.jsonl.zst", rows[:90])
    write_jsonl(tmp_path / "run" / "text" / "final" / "kept-00001.jsonl.zst", rows[90:])
    out, asked = tmp_path / "labels.jsonl", list[str]()

    def reply(messages: list[dict[str, Any]]) -> Reply:
        asked.append(messages[1]["content"])
        return verdict(messages)

    with answering(reply) as url:
        words = ["--run-dir", str(tmp_path / "run"), "--rubric", "advertising", "--url", url, "--model", "m"]
        words += ["--out", str(out), "--sample", "140"]
        assert label_documents.main(words) == 0
        first = json.loads(capsys.readouterr().out.splitlines()[-1])
        with out.open("a") as file:
            file.write('{"id": "9')  # as a kill would leave it
        again = list(asked)
        assert label_documents.main([*words, "--classifier", str(tmp_path / "model")]) == 0
        second = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert label_documents.main([*words[:-2], "--good-from", "4"]) == 2
        assert "another rubric or border" in capsys.readouterr().err
    labels = [json.loads(line) for line in out.read_text().splitlines()]
    texts = [row["text"] for row in labels]
    assert len(set(texts)) == len(texts) and not any("7" in text or "number 3" in text for text in texts)
    assert all(row["label"] == int(row["text"].startswith("The")) for row in labels)
    assert first["asked"] == 140 == len(again)
    assert first["unreadable"] == sum("7" in t and "number 3" not in t for t in again)
    assert first["unanswered"] == sum("number 3" in t for t in again) and "404" in first["first_failure"]
    assert second["known"] == len(labels) and second["asked"] == 140 - len(labels)
    card, model = read_card(tmp_path / "model"), load_classifier(tmp_path / "model")
    assert card["name"] == "advertisement" and card["made_from"]["rubric"] == "advertising" and card["nearest"]
    scores = model.score([SOLD.format("garden", 999), TOLD.format("garden", 999)])
    assert scores[0] < card["threshold"] <= scores[1]
    page = (tmp_path / "model" / "card.html").read_text()
    assert "next to the threshold" in page


def test_bad_words_cost_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run-dir", str(tmp_path), "--rubric", "fluency", "--url", "http://127.0.0.1:9/v1", "--model", "m"]
    for more, line in (
        (["--out", str(tmp_path / "l.jsonl")], "has no documents of stage text"),
        (["--out", str(tmp_path / "l.csv")], "labels are a .jsonl file"),
        (["--out", str(tmp_path / "l.jsonl"), "--good-from", "9"], "lies outside 1 to 5"),
        (["--out", str(tmp_path / "l.jsonl"), "--sample", "0"], "must be above zero"),
    ):
        assert label_documents.main([*words, *more]) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / "l.jsonl").exists()


@given(st.integers(0, 5), st.sampled_from(["Score: {}", "reasons 3 of 5.\nscore = {}", "**Score:** {}.", "Score:\n{}"]))
def test_points_are_the_last_that_are_named(points: int, form: str) -> None:
    assert points_of("Score: 1\n" + form.format(points)) == points


@pytest.mark.parametrize("answer", ["", "five", "Score: 6", "Score: 12", "I scored a goal", "Score: -"])
def test_points_out_of_range_are_none(answer: str) -> None:
    assert points_of(answer) is None


def test_a_sample_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    rows = [document.row() for document in documents()]
    a, b = tmp_path / "a.jsonl.zst", tmp_path / "b.jsonl.zst"
    write_jsonl(a, rows[:50])
    write_jsonl(b, rows[50:])
    chosen = [document.id for document in sample([a, b], 40, 7)]
    assert chosen == [document.id for document in sample([b, a], 40, 7)] and len(set(chosen)) == 40
    assert chosen != [document.id for document in sample([a, b], 40, 8)]
    assert chosen[:10] == [document.id for document in sample([a, b], 10, 7)]  # a larger sample holds a smaller one
