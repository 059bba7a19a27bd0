"""A pass: what its steps are given and charged, what it writes, what is left of one that breaks."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.jsonl import decoded, encoded, read_jsonl
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.cost import by_step
from ilm_ray.data.documents.document import Document, Verdict, read_documents
from ilm_ray.data.documents.passes import BATCH, Batches, FileTask, run_pass
from ilm_ray.data.documents.sources import Source

COUNT = 3 * BATCH
SIXTY_FOUR_BITS = st.integers(0, 2**63 - 1)


def made(_: Batches, task: FileTask) -> Batches:
    for start in range(0, COUNT, 7):
        batch = [Document(number, "", "d") for number in range(start, min(start + 7, COUNT))]
        for document in batch:
            document.set_text(f"text {document.id}\nof two lines")
            task.records["made"] += 1
        yield batch


def odd(documents: Batches, task: FileTask) -> Batches:
    """Every odd document falls, after a tenth of a second of work on each batch."""
    for batch in documents:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        for document in batch:
            document.judge(Verdict("odd", document.id % 2, 0) if document.id % 2 else None)
        yield batch


def task_in(folder: Path) -> FileTask:
    return FileTask(Source(3, 0, 0, "d", "a.warc"), folder, TextConfig())


def test_a_pass_writes_once_and_charges_each_step_its_own_time(tmp_path: Path) -> None:
    sizes = []

    def watch(documents: Batches, task: FileTask) -> Batches:
        for batch in documents:
            sizes.append(len(batch))
            yield batch

    run_pass("cleaned", {"format": made, "clean": odd, "sign": watch}, task_in(tmp_path))
    assert sizes == [BATCH, BATCH // 2]  # batches are filled up again behind a step that removes
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert files == ["cleaned/kept-00003.jsonl.zst", "cleaned/removed-00003.jsonl.zst", "cleaned/stats-00003.json",
                     "cost/cleaned-00003.json"]  # fmt: skip
    kept, removed = (list(read_jsonl(tmp_path / name)) for name in files[:2])
    assert [row["id"] for row in kept] == [str(number) for number in range(0, COUNT, 2)]
    assert all(row["drop_step"] == "clean" and row["drop_rule"] == "odd" and row["drop_value"] == 1 for row in removed)
    assert len(removed) == COUNT // 2 and not any("drop_step" in row for row in kept)
    stats = json.loads((tmp_path / files[2]).read_text())
    counted = {(row["step"], row["rule"]): row["documents"] for row in stats["funnel"]}
    assert counted == {("format", "kept"): COUNT, ("clean", "kept"): COUNT // 2, ("clean", "odd"): COUNT // 2}
    assert stats["records"] == {"made": COUNT}
    cost = by_step(tmp_path / "cost")
    assert cost["documents"].to_dict() == {"format": COUNT, "clean": COUNT, "sign": COUNT // 2, "write": COUNT}
    assert cost["seconds"]["clean"] == pytest.approx(0.3, abs=0.05)
    assert cost["seconds"].drop("clean").sum() < 0.1


def test_a_pass_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    def broken(documents: Batches, task: FileTask) -> Batches:
        yield next(documents)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_pass("cleaned", {"format": made, "clean": broken}, task_in(tmp_path))
    assert not list(tmp_path.rglob("*.*"))


@given(
    SIXTY_FOUR_BITS,
    st.none() | SIXTY_FOUR_BITS,
    st.text(),
    st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 1)),
)
def test_a_document_comes_back_from_its_row(
    number: int, copy: int | None, text: str, columns: dict[str, float]
) -> None:
    document = Document(number, "https://a.test", "d", duplicate_of=copy, columns=columns)
    document.set_text(text.encode("utf-8", "replace").decode())
    row = decoded(encoded(document.row()))
    assert Document.of_row(row) == document
    assert row["id"] == str(number) and row.get("duplicate_of") == (None if copy is None else str(copy))
    assert row.keys() >= columns.keys() and "columns" not in row


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    for line in ("[1]", '{"url": "a", "dump": "d"}', '{"id": "x", "url": "a", "dump": "d"}'):
        (tmp_path / "a.jsonl").write_text(line)
        with pytest.raises(ValueError):
            list(read_documents(tmp_path / "a.jsonl"))
