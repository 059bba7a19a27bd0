"""Published benchmark files as OpenCompass reads them."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.data import winogrande_row, write_data

WORDS = st.lists(st.text("abé'中", min_size=1, max_size=4), min_size=1, max_size=4).map(" ".join)


@given(WORDS, WORDS, WORDS, WORDS, st.integers(0, 1))
def test_a_blank_filled_in_gives_the_published_sentence(
    start: str, first: str, second: str, end: str, gold: int
) -> None:
    contexts = [f"{start} {first}", f"{start} {second}"]
    row = winogrande_row({"context_options": contexts, "continuation": end, "gold": gold})
    assert row["sentence"].count("_") == 1
    for number, context in enumerate(contexts, 1):
        assert row["sentence"].replace("_", row[f"option{number}"]) == f"{context} {end}"
    assert row[f"option{row['answer']}"] == contexts[gold].removeprefix(row["sentence"].split("_")[0])


def test_files_are_placed_and_converted(tmp_path: Path) -> None:
    published, root = tmp_path / "published", tmp_path / "root"
    for name in ("gsm8k", "c3", "mbpp_sanitized", "flores200/dev", "leval/Closed-ended-tasks", "mmlu/test"):
        (published / name).mkdir(parents=True)
    (published / "gsm8k/train.jsonl.gz").write_bytes(gzip.compress(b'{"question": "1 + 1?"}\n'))
    dialogues, texts = [[["甲"], [{"question": "一"}], "d"]], [[["乙"], [{"question": "二"}], "m"]]
    (published / "c3/c3-d-dev.json").write_text(json.dumps(dialogues))
    (published / "c3/c3-m-dev.json").write_text(json.dumps(texts))
    problems = [{"task_id": 1, "code": "a\nb"}, {"task_id": 2, "code": "é"}]
    (published / "mbpp_sanitized/sanitized-mbpp.json").write_text(json.dumps(problems))
    (published / "flores200/dev/eng_Latn.dev").write_text("".join(f"line {i}\n" for i in range(997)))
    (published / "leval/Closed-ended-tasks/tpo.jsonl").write_text("{}\n")
    (published / "mmlu/test/anatomy_test.csv").write_text("q,a,b,c,d,A\n")
    write_data(published, root)
    data = root / "data"
    assert json.loads((data / "gsm8k/train.jsonl").read_text()) == {"question": "1 + 1?"}
    assert json.loads((data / "CLUE/C3/dev_0.json").read_text()) == [*texts, *dialogues]
    assert [json.loads(line) for line in (data / "mbpp/sanitized-mbpp.jsonl").read_text().splitlines()] == problems
    sentences = (data / "flores_first100/dev/eng_Latn.dev").read_text().splitlines()
    assert sentences == [f"line {i}" for i in range(100)]
    assert (data / "leval/tpo/test.jsonl").is_file() and (data / "mmlu/test/anatomy_test.csv").is_file()
    assert not (data / "humaneval").exists()


def test_every_question_of_mt_bench_is_asked_at_the_temperature_of_its_category(tmp_path: Path) -> None:
    published, asked_turns = tmp_path / "published/mt_bench", {}
    published.mkdir(parents=True)
    for number, category in enumerate(("writing", "stem", "math", "coding", "roleplay")):
        asked_turns[f"first {number}"] = (category, f"second {number}")
    questions = [
        {"question_id": n, "category": category, "turns": [first, second]}
        for n, (first, (category, second)) in enumerate(asked_turns.items())
    ]
    known = [{"question_id": 2, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["4", "5"]}]}]
    (published / "question.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (published / "reference_answer_gpt-4.jsonl").write_text("".join(json.dumps(q) + "\n" for q in known))
    write_data(tmp_path / "published", tmp_path / "root")
    written = {}
    for path in (tmp_path / "root/data/subjective/mtbench").iterdir():
        for row in json.loads(path.read_text()):
            first, answer, second, last = row["dialogue"]
            assert (first["role"], answer, last) == ("user", {"role": "assistant", "content": ""}, answer)
            written[first["content"]] = (row["capability"], second["content"])
            expected = {"writing": "0.7", "roleplay": "0.7", "stem": "0.1"}.get(row["capability"], "0.0")
            assert path.stem == f"mtbench_{expected}"
            assert row["others"]["reference"] == (["4", "5"] if first["content"] == "first 2" else [])
    assert written == asked_turns


def test_a_folder_without_benchmarks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of"):
        write_data(tmp_path, tmp_path / "root")
