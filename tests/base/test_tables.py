"""Parquet, Arrow and the layouts of Hugging Face's data sets give the rows of JSON Lines, to alignment and to text."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.base.rows import read_rows
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web.format.documents import format_documents

Rows = list[dict[str, Any]]
CHATS: Rows = [
    {
        "messages": [
            {"role": "user", "content": f"How high is gate {n}?"},
            {"role": "assistant", "content": f"{n} feet."},
        ]
    }
    for n in range(7)
]


def stream(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def saved(folder: Path, rows: Rows) -> None:
    """As `Dataset.save_to_disk` does."""
    stream(folder / "data-00000-of-00002.arrow", rows[:3])
    stream(folder / "data-00001-of-00002.arrow", rows[3:])
    stream(folder / "cache-123.arrow", rows)  # of a `map`, and no data
    files = [{"filename": f"data-0000{n}-of-00002.arrow"} for n in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "x", "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", CHATS)
    pa.parquet.write_table(pa.Table.from_pylist(CHATS), tmp_path / "a.parquet", row_group_size=2)
    stream(tmp_path / "a.arrow", CHATS)
    saved(tmp_path / "saved", CHATS)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "README.md").write_text("# a card")
    pa.parquet.write_table(pa.Table.from_pylist(CHATS), tmp_path / "hub" / "data" / "part-0.parquet")
    for name in ("a.jsonl", "a.parquet", "a.arrow", "saved", "hub"):
        assert read_rows(tmp_path / name, ("messages",), "sft.data") == CHATS, name


def test_splits_of_a_data_set_are_those_of_its_rows(tmp_path: Path) -> None:
    for split, rows in (("train", CHATS[:5]), ("validation", CHATS[5:])):
        saved(tmp_path / "dict" / split, rows)
        (tmp_path / "hub").mkdir(exist_ok=True)
        pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    for name in ("dict", "hub"):
        rows = read_rows(tmp_path / name, ("messages",), "sft.data")
        assert [row["split"] for row in rows] == ["train"] * 5 + ["heldout"] * 2
        assert [row["messages"] for row in rows] == [chat["messages"] for chat in CHATS]


def test_text_comes_of_parquet_and_of_the_training_split_of_a_data_set(tmp_path: Path) -> None:
    texts: Rows = [{"content": f"The gate of garden {n} was repaired. " * 9, "url": f"u{n}"} for n in range(6)]
    texts[2]["content"] = None
    for split, rows in (("train", texts[:4]), ("test", texts[4:])):
        saved(tmp_path / "books" / split, rows)
    (tmp_path / "books" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (tmp_path / "papers").mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(texts), tmp_path / "papers" / "x.parquet")
    named = {"books": tmp_path / "books", "papers": tmp_path / "papers" / "*.parquet"}
    config = TextConfig.model_validate(
        {"sources": {name: {"input": str(place), "text_field": "content"} for name, place in named.items()}}
    )
    counts, urls = Counter[str](), dict[str, list[str]]()
    for source in find_sources(None, config):
        urls.setdefault(source.source, []).extend(d.url for d in format_documents(source, config, counts))
    assert urls == {"books": ["u0", "u1", "u3"], "papers": ["u0", "u1", "u3", "u4", "u5"]}
    assert counts == {"document": 8, "malformed": 2}


def test_what_is_damaged_or_missing_is_refused_or_counted(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(CHATS), tmp_path / "a.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    saved(tmp_path / "saved", CHATS)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    for name, message in (("cut.parquet", "damaged"), ("saved", "is missing"), ("none", "does not exist")):
        with pytest.raises(UserError, match=message) as caught:
            read_rows(tmp_path / name, ("messages",), "sft.data")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="line 1 lacks prompt"):
        read_rows(tmp_path / "a.parquet", ("prompt",), "ppo.prompts")
    config = TextConfig.model_validate({"sources": {"x": {"input": str(tmp_path / "cut.parquet")}}})
    counts = Counter[str]()
    assert not list(format_documents(find_sources(None, config)[0], config, counts)) and counts["truncated"] == 1
