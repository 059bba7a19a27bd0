"""The tokens stage on Ray Data against a plain loop over the same rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.warden import TASK
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.pipeline import tokenize_corpus
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Context, Result

Row = dict[str, Any]
TOKENIZER = Tokenizer([bytes([i]) for i in range(256)], 320)


def _text_rows() -> list[list[Row]]:
    """Three files: English and Chinese in turn, and German, which is none of ours."""
    texts = {"en": "Text number {} <|im_end|> and more. ", "zh": "第{}篇文章。", "de": "Nummer {}. "}
    return [
        [
            {
                "id": file << 28 | i,
                "url": f"http://a.b/{file}/{i}",
                "dump": "CC-MAIN-2024-10",
                "language": language,
                "text": texts[language].format(i) * (1 + i % 7 * 9),
            }
            for i in range(40)
            for language in [("en", "zh", "en", "de")[i % 4]]
        ]
        for file in range(3)
    ]


def _code_rows() -> list[Row]:
    return [
        {
            "id": 10**18 + i,
            "url": f"tree#{i}",
            "dump": "code",
            "language": "code",
            "text": f"# a{i}.py\n" * (i + 1),
            "repository": "tree",
            "files": [{"path": f"a{i}.py", "start": 0, "end": 8}],
            "weight": 1 + i % 5 / 2,
        }
        for i in range(9)
    ]


@pytest.fixture()
def run_dir(tmp_path: Path) -> Path:
    TOKENIZER.save(tmp_path / "tokenizer")
    for number, rows in enumerate(_text_rows()):
        write_jsonl(tmp_path / "text" / "final" / f"kept-{number:05d}.jsonl.zst", rows)
    write_jsonl(tmp_path / "code" / "kept-00000.jsonl.zst", _code_rows())
    return tmp_path


def _run(run_dir: Path) -> Result:
    folder = run_dir / "tokens"
    folder.mkdir(exist_ok=True)
    context = Context(load_config("nano"), folder, run_dir, Journal(run_dir / "journal.jsonl"))
    return tokenize_corpus(context)


def _read(run_dir: Path) -> dict[int, tuple[str, list[int], int, float, Row]]:
    """id -> source, tokens, bytes, weight, provenance of every document of both splits."""
    documents = {}
    for folder in sorted((run_dir / "tokens").glob("*/*/")):
        source = TokenSource(folder)
        sizes = [int(size) for path in sorted(folder.glob("*.bytes.npy")) for size in np.load(path)]
        for i, size in enumerate(sizes):
            weight = float(source.weights[i])
            documents[int(source.ids[i])] = (
                folder.parent.name,
                source.tokens(i).tolist(),
                size,
                weight,
                source.provenance(i),
            )
    return documents


def _expected(rows: list[Row]) -> dict[int, tuple[str, list[int], int, float, Row]]:
    return {
        row["id"]: (
            row["language"],
            [TOKENIZER.bos_id, *TOKENIZER.encode(row["text"]), TOKENIZER.eos_id],
            len(row["text"].encode()),
            row.get("weight", 1.0),
            {k: v for k, v in row.items() if k in ("id", "url", "dump", "repository", "files")},
        )
        for row in rows
        if row["language"] != "de"
    }


def test_every_kept_document_is_in_a_shard_once(local_ray: None, run_dir: Path) -> None:
    result = _run(run_dir)
    rows = [row for file in _text_rows() for row in file] + _code_rows()
    expected = _expected(rows)
    assert _read(run_dir) == expected
    summary = result.metrics["summary"]
    assert summary["documents"] == len(expected) and "decontaminated" not in summary
    assert summary["tokens"] == sum(len(tokens) for _, tokens, *_ in expected.values())
    for source in ("en", "zh", "code"):
        assert all(len(TokenSource(run_dir / "tokens" / source / split)) for split in ("train", "heldout"))


def test_tasks_are_called_after_what_they_do(local_ray: None, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, original = list[str](), ray.data.Dataset.map

    def named(data: ray.data.Dataset, work: Any) -> ray.data.Dataset:
        names.append(work.__name__)
        return original(data, work)

    monkeypatch.setattr(ray.data.Dataset, "map", named)
    _run(run_dir)
    assert names == ["tokens_look_at_file", "tokens_tokenize_file"]
    assert all(TASK.match(f"ray::Map({name})") for name in names)


def test_a_stage_that_goes_on_ends_with_the_same_bytes(local_ray: None, run_dir: Path) -> None:
    _run(run_dir)
    files = {path: path.read_bytes() for path in sorted((run_dir / "tokens").rglob("*")) if path.is_file()}
    (run_dir / "tokens" / "receipts" / "text-00001.json").unlink()
    (run_dir / "tokens" / "receipts" / "code-00000.json").unlink()
    next((run_dir / "tokens").glob("en/*/shard-00001.tokens.npy")).unlink()
    kept = (run_dir / "tokens" / "zh" / "train" / "shard-00000.tokens.npy").stat().st_mtime_ns
    _run(run_dir)
    assert {path: path.read_bytes() for path in sorted((run_dir / "tokens").rglob("*")) if path.is_file()} == files
    assert (run_dir / "tokens" / "zh" / "train" / "shard-00000.tokens.npy").stat().st_mtime_ns == kept


def test_documents_that_decontamination_removed_are_left_out(local_ray: None, run_dir: Path) -> None:
    texts, code = _text_rows(), _code_rows()
    gone = [{"id": row["id"], "stage": "text"} for row in (texts[0][0], texts[0][4], texts[2][9])]
    gone += [{"id": code[3]["id"], "stage": "code"}, {"id": code[4]["id"], "stage": "text"}, {"id": 5, "stage": "code"}]
    write_jsonl(run_dir / "decontamination" / "removed-00000.jsonl.zst", gone[:2])
    write_jsonl(run_dir / "decontamination" / "removed-00001.jsonl.zst", gone[2:])
    result = _run(run_dir)
    left = [row for file in texts for row in file if row["id"] not in {g["id"] for g in gone[:3]}]
    assert _read(run_dir) == _expected(left + [row for row in code if row is not code[3]])
    assert result.metrics["summary"]["decontaminated"] == 4
    write_jsonl(run_dir / "decontamination" / "removed-00002.jsonl.zst", [{"id": 1}])
    with pytest.raises(UserError, match="removed-00002"):
        _run(run_dir)


@pytest.mark.parametrize("weight", [0, "high", 1e9])
def test_a_weight_that_is_none_is_refused(local_ray: None, run_dir: Path, weight: Any) -> None:
    row = _code_rows()[0] | {"weight": weight}
    write_jsonl(run_dir / "code" / "kept-00000.jsonl.zst", [row, _code_rows()[1]])
    with pytest.raises(UserError, match=f"document {row['id']} has weight"):
        _run(run_dir)
    assert not list((run_dir / "tokens").glob("code/*/*.documents.jsonl.zst"))


def test_receipts_name_what_the_manifest_lists(local_ray: None, run_dir: Path) -> None:
    files = _run(run_dir).files
    receipts = sorted((run_dir / "tokens" / "receipts").iterdir())
    named = [run_dir / "tokens" / name for path in receipts for name in json.loads(path.read_text())["files"]]
    assert sorted(named) == sorted(files)
    shards = set((run_dir / "tokens").glob("*/*/shard-*"))
    assert shards == set(files)
    assert np.load(next(p for p in files if p.name.endswith("ids.npy"))).dtype == np.int64
    shutil.rmtree(run_dir / "text")
    shutil.rmtree(run_dir / "code")
    with pytest.raises(UserError, match="no kept documents"):
        _run(run_dir)
