"""A new dump against finished runs: the outcome of one run over all dumps, without reading the old ones' text."""

import shutil
from pathlib import Path

import pytest

from demo import DATA
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.documents import paths
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web import pipeline
from tests.data.running import rows_of, run

OLD, NEW = "CC-MAIN-2024-10", "CC-MAIN-2024-33"


def survivors(text: Path) -> set[int]:
    return {row["id"] for row in rows_of(text, "dedup", "kept")}


@pytest.fixture(scope="module")
def old(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "old", f"input={DATA}/web/{OLD}/*.warc.gz")


@pytest.mark.parametrize("verify", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_the_outcome_is_that_of_one_run_over_both(demo: Path, tmp_path: Path, verify: str) -> None:
    setting = f"text.verify={verify}"
    old = run(tmp_path / "old", f"input={DATA}/web/{OLD}/*.warc.gz", setting)
    before = survivors(old)
    for name in ("cleaned", "final"):  # the text of the old dump cannot be read any more
        shutil.rmtree(old / name)
    new = run(tmp_path / "new", f"input={DATA}/web/{NEW}/*.warc.gz", f"text.previous=[{old.parent}]", setting)
    both = demo if verify == "true" else run(tmp_path / "both", f"input={DATA}/web/*/*.warc.gz", setting)
    replaced = list(read_jsonl(paths.replaced_path(new)))
    gone = {int(row["id"]) for row in replaced}
    assert len(gone) > 5 and gone <= before
    assert (before - gone) | survivors(new) == survivors(both)
    # The newest copy stays: a document of the new dump replaces each of them.
    assert {int(row["duplicate_of"]) for row in replaced} <= survivors(new)
    assert {row["dump"] for row in replaced} == {OLD} and {row["run"] for row in replaced} == {str(old.parent)}
    files = {source.path: source for source in find_sources(f"{DATA}/web/{OLD}/*.warc.gz")}
    assert all(files[row["file"]].document_id(row["row"]) == int(row["id"]) for row in replaced)


def test_an_old_dump_that_comes_late_loses_to_the_newer_one(demo: Path, tmp_path: Path) -> None:
    newer = run(tmp_path / "newer", f"input={DATA}/web/{NEW}/*.warc.gz")
    late = run(tmp_path / "late", f"input={DATA}/web/{OLD}/*.warc.gz", f"text.previous=[{newer.parent}]")
    assert not list(read_jsonl(paths.replaced_path(late)))
    assert survivors(newer) | survivors(late) == survivors(demo)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"input={DATA}/web/{OLD}/*.warc.gz"], "holds dump CC-MAIN-2024-10, which is there already"),
        ([f"input={DATA}/web/{NEW}/*.warc.gz", "text.ngram=4"], "was made with text.ngram=5, this run has 4"),
        ([f"input={DATA}/web/{NEW}/*.warc.gz", "text.previous=[/nowhere]"], "/nowhere holds no finished text stage"),
    ],
)
def test_what_cannot_be_compared_is_refused(old: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipeline.sources(load_config("nano", None, [f"text.previous=[{old.parent}]", *settings]))


def test_a_dump_without_a_date_is_refused_beside_others(old: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    shutil.copy(next((DATA / "web" / NEW).glob("*.gz")), tmp_path / "pages")
    with pytest.raises(UserError, match="'pages' has no date"):
        pipeline.sources(load_config("nano", None, [f"text.previous=[{old.parent}]", f"input={tmp_path}/pages/*"]))


def test_missing_signatures_are_refused(old: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(old.parent, copy)
    paths.signatures_path(copy / "text", 0).unlink()
    with pytest.raises(UserError, match=r"signatures-00000\.npz is missing"):
        pipeline.sources(load_config("nano", None, [f"text.previous=[{copy}]", f"input={DATA}/web/{NEW}/*.warc.gz"]))


@pytest.mark.slow
def test_a_real_dump_against_two_finished_ones(shared_data: Path, local_ray: None, tmp_path: Path) -> None:
    dumps = ("CC-MAIN-2023-40", "CC-MAIN-2024-10", "CC-MAIN-2024-33")
    runs: list[Path] = []
    for dump in dumps:
        before = ",".join(str(text.parent) for text in runs)
        pages = f"input={shared_data}/web/{dump}/*.warc.gz"
        runs.append(run(tmp_path / dump, pages, "text.languages=null", f"text.previous=[{before}]"))
    both = run(tmp_path / "all", f"input={shared_data}/web/CC-MAIN-*/*.warc.gz", "text.languages=null")
    lists = [list(read_jsonl(paths.replaced_path(text))) for text in runs]
    print({dump: len(rows) for dump, rows in zip(dumps, lists, strict=True)})
    gone = {int(row["id"]) for rows in lists for row in rows}
    assert not lists[0] and lists[1] and {row["dump"] for row in lists[2]} == set(dumps[:2])
    assert set.union(*map(survivors, runs)) - gone == survivors(both)
    # Of the new dump alone documents were read: those of the old ones lie in their own runs.
    read = {row["dump"] for path in (runs[2] / "cleaned").glob("*-*.jsonl.zst") for row in read_jsonl(path)}
    assert read == {dumps[2]}
