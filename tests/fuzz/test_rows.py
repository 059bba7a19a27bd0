"""Files of rows that people hand in: texts, labels, benchmark items, conversations, pairs, prompts, comparisons."""

import functools
import gzip
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

import demo
from ilm_ray.alignment.inputs import check_chats, preference_rows, prompt_rows
from ilm_ray.alignment.online.labels import labelled_pairs, read_comparisons, read_labels
from ilm_ray.base.jsonl import encoded, read_jsonl
from ilm_ray.base.rows import require_splits
from ilm_ray.config import load_config
from ilm_ray.data.decontamination.items import read_items
from ilm_ray.data.tokenizer.messages import check_messages
from ilm_ray.data.web.classifiers import labels as classifier_labels
from ilm_ray.data.web.format.plain import read_texts
from tests.fuzz.limits import bounded, few, refusals
from tests.fuzz.made import as_json, damaged, deep, lines, rewritten
from tests.fuzz.test_web_archives import bomb


@functools.cache
def first_rows(name: str, count: int = 3) -> list[Any]:
    return [json.loads(line) for line in (demo.DATA / name).read_text().splitlines()[:count]]


def file_of(name: str) -> st.SearchStrategy[bytes]:
    """A file much like the demo's: its first rows, damaged as bytes or as values; or any lines at all."""
    rows = first_rows(name)
    whole = b"\n".join(map(as_json, rows))
    other = st.lists(st.sampled_from(rows).flatmap(rewritten), min_size=1, max_size=3)
    return st.one_of(other.map(lambda changed_rows: b"\n".join(map(as_json, changed_rows))), damaged([whole]), lines)


def reading(data: bytes, read: Callable[[Path], Any], name: str = "rows.jsonl") -> Any:
    with tempfile.TemporaryDirectory() as folder, refusals():
        path = Path(folder, name)
        path.write_bytes(data)
        return read(path)


@given(
    st.one_of(lines, lines.map(zstandard.compress), damaged([zstandard.compress(b'{"a": 1}\n' * 50)])), st.booleans()
)
@example(b"[" * 100_000, False)
@example(bomb(1 << 31), True)
@few(30)
def test_lines_are_values_or_one_of_two_errors(data: bytes, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        path = Path(folder, "x.jsonl.zst" if packed else "x.jsonl")
        path.write_bytes(data)
        try:
            for row in read_jsonl(path):
                encoded({"row": row}).decode()  # what was read can be written
        except (ValueError, OSError):
            pass


@given(file_of("chat.jsonl"))
@example(b'{"messages": ' + b"[" * 100_000)
@few(20)
def test_conversations(data: bytes) -> None:
    rows = reading(data, lambda path: check_chats(load_config("nano", None, [f"sft.data={path}"])))
    assert rows is None or rows > 1


@given(file_of("preferences.jsonl"))
@example(b'{"domain": [], "prompt": [], "chosen": "a", "rejected": "b", "split": []}')
@few(20)
def test_preference_pairs(data: bytes) -> None:
    config = load_config("nano")
    rows = reading(data, lambda path: list(preference_rows(config.model_copy(update={"reward": config.reward.model_copy(
        update={"data": str(path)})}))))  # fmt: skip
    assert all(row["domain"] in config.reward.system_prompts for row in rows or [])
    with refusals():
        require_splits(rows or [], "reward.data")


@given(file_of("prompts.jsonl"))
@few(20)
def test_prompts(data: bytes) -> None:
    for row in reading(data, lambda path: prompt_rows(load_config("nano", None, [f"ppo.prompts={path}"]))) or []:
        check_messages(row["prompt"])


COMPARISON = {
    "id": "1-0",
    "domain": "helpful",
    "prompt": [{"role": "user", "content": "Hi"}],
    "a": "x",
    "b": "y",
    "label": "a",
}


@given(
    st.one_of(
        st.lists(rewritten(COMPARISON), min_size=1, max_size=3).map(lambda rows: b"\n".join(map(as_json, rows))), lines
    )
)
@few(25)
def test_comparisons_and_labels(data: bytes) -> None:
    reading(data, read_comparisons)
    for row in reading(data, lambda path: labelled_pairs(read_labels(path))) or []:
        assert isinstance(row["chosen"], str) and row["split"] in ("train", "heldout")


@given(
    st.one_of(file_of("labels/toxicity.jsonl"), st.binary(max_size=60)),
    st.sampled_from([".jsonl", ".csv", ".tsv", ".csv.gz"]),
)
@example(b"[" * 100_000, ".jsonl")
@example(b'{"text": "a", "label": [1]}', ".jsonl")
@few(30)
def test_labels_of_a_classifier(data: bytes, suffix: str) -> None:
    labels = reading(data, classifier_labels.read_labels, "labels" + suffix)
    assert labels is None or len(labels.texts) == len(labels.good)


@given(
    st.one_of(
        file_of("benchmarks/word_problems.jsonl"),
        damaged([(demo.DATA / "benchmarks/general_questions.csv").read_bytes()]),
        deep.map(str.encode),
    ),
    st.sampled_from([".jsonl", ".json", ".csv", ".json.gz"]),
)
@example(b"9" * 5000, ".json")
@example(b"", ".json.gz")
@few(30)
def test_benchmark_items(data: bytes, suffix: str) -> None:
    packed = gzip.compress(data) if suffix.endswith(".gz") and data[:1] == b"{" else data
    for item in reading(packed, lambda path: read_items(path, "b"), "items" + suffix) or []:
        assert isinstance(item.text, str)


@given(lines, st.sampled_from(["x.txt", "x.jsonl", "x.jsonl.gz", "x.jsonl.zst"]), st.booleans())
@few(30)
def test_documents_that_are_text_already(data: bytes, name: str, packed: bool) -> None:
    if packed and name.endswith(".gz"):
        data = gzip.compress(data)
    elif packed and name.endswith(".zst"):
        data = zstandard.compress(data)
    counts: Counter[str] = Counter()
    with bounded():
        documents = list(read_texts(io.BytesIO(data), name, "text", counts))
    assert len(documents) == counts["document"]
    assert all(isinstance(document.text, str) for document in documents)
