"""Lists, classifiers, benchmarks and code that are not named: their steps are off, and manifest and report say so."""

from pathlib import Path

import pytest

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.config import Config, load_config
from ilm_ray.data.documents import paths
from ilm_ray.report.report import write_report
from ilm_ray.run.journal import Journal
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.stage import run_stage
from jobs import code_data, decontaminate, web_text

ARCHIVE = "input=demo/data/web/CC-MAIN-2024-10/part-00000.warc.gz"
LISTS = ("blocked_domains", "blocked_words")
CLASSIFIERS = ("toxicity", "pornography", "advertisement", "fluency")
ALL_OFF = [f"text.{name}=null" for name in LISTS] + [f"text.classifiers.{name}.labels=null" for name in CLASSIFIERS]
ALL_OFF += ["decontamination.benchmarks=null", "code.source=null"]


def run(folder: Path, config: Config) -> dict[str, Manifest]:
    journal = Journal(folder / "journal.jsonl")
    stages = (web_text.STAGE, code_data.STAGE, decontaminate.STAGE)
    return {stage.name: run_stage(stage, config, folder, journal) for stage in stages}


def rows(folder: Path, files: str, step: str | None = None) -> list[dict[str, object]]:
    """Rows of `final/kept` and the like, of one step where it is named."""
    records = (row for path in sorted((folder / "text").glob(f"{files}-*")) for row in read_jsonl(path))
    return [row for row in records if step in (None, row.get("drop_step"))]


@pytest.fixture(scope="module")
def off(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("off")
    run(folder, load_config("nano", None, [ARCHIVE, *ALL_OFF]))
    return folder


def test_what_is_not_named_removes_and_scores_nothing(off: Path) -> None:
    copies = {row["id"] for row in rows(off, "final/removed", "dedup")}
    came = [row["id"] for row in rows(off, "cleaned/kept") if row["id"] not in copies]
    stayed = rows(off, "final/kept")
    assert len(came) > 20 and [row["id"] for row in stayed] == came
    assert len(rows(off, "final/removed")) == len(copies)
    columns = {"blocked_words", *(f"{name}_score" for name in CLASSIFIERS)}
    assert all(columns.isdisjoint(row) for row in stayed)
    assert not (off / "text" / "models").exists()
    assert not list((off / "code").glob("kept-*")) and not list((off / "decontamination").glob("removed-*"))


def test_manifest_and_report_say_which_steps_were_off(off: Path) -> None:
    manifests = run(off, load_config("nano", None, [ARCHIVE, *ALL_OFF]))  # skipped: all is unchanged
    assert manifests["text"].metrics["off"] == {
        **{f"text.{name}": "no list named" for name in LISTS},
        **{f"text.classifiers.{name}": "no model named" for name in CLASSIFIERS},
    }
    assert manifests["decontamination"].metrics["off"] == {"decontamination.benchmarks": "no benchmark named"}
    assert manifests["code"].metrics["off"] == {"code.source": "no source named"}
    page = write_report(off).read_text(encoding="utf-8")
    for line in (
        "off: no list named (text.blocked_domains, text.blocked_words); no model named (text.classifiers.advertisement",
        "off: no benchmark named (decontamination.benchmarks)",
        "off: no source named (code.source)",
    ):
        assert line in page


def test_one_classifier_and_one_list_work_alone(off: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    first = str(rows(off, "final/kept")[0]["text"]).split()
    words.write_text(max(first, key=len).strip(".,") + "\n")
    labels = "text.classifiers.fluency.labels=demo/data/labels/fluency.jsonl"
    settings = [ARCHIVE, *ALL_OFF, f"text.blocked_words={words}", labels]
    manifest = run_stage(web_text.STAGE, load_config("nano", None, settings), tmp_path, Journal(tmp_path / "journal"))
    assert manifest.metrics["off"].keys() == {
        "text.blocked_domains",
        *(f"text.classifiers.{name}" for name in CLASSIFIERS if name != "fluency"),
    }
    fallen = rows(tmp_path, "final/removed", "safe")
    assert fallen and {row["drop_rule"] for row in fallen} == {"blocked_word"}
    assert {row["drop_rule"] for row in rows(tmp_path, "final/removed", "quality")} <= {"fluency"}
    stayed = rows(tmp_path, "final/kept")
    assert all("fluency_score" in row and "toxicity_score" not in row for row in stayed)
    assert [p.name for p in (tmp_path / "text" / "models").iterdir()] == ["fluency"]
    assert not (tmp_path / "text" / "safe" / "domains.npy").exists()
    assert paths.kept_and_removed(tmp_path / "text", "final", 0, "safe")["removed"] == len(fallen)
