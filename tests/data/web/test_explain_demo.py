"""explain on a real run over the demo corpus: one document of every fate, thresholds against the rows themselves."""

from pathlib import Path

import pytest

from ilm_ray.base.jsonl import Row, read_jsonl
from ilm_ray.data.documents.paths import STEPS
from ilm_ray.report.explain import document as explain_document
from ilm_ray.report.explain import threshold as explain_threshold
from ilm_ray.report.explain.text_run import TextRun, bounds, open_run
from ilm_ray.report.report import write_report


@pytest.fixture(scope="module")
def finished(demo: Path) -> TextRun:
    return open_run(demo.parent)


def rows(run: TextRun, step: str, outcome: str) -> list[Row]:
    return [row for path in run.files(step, outcome) for row in read_jsonl(path)]


def test_one_document_of_every_fate(finished: TextRun) -> None:
    one_of = {(step, row["drop_rule"]): row for step in STEPS for row in rows(finished, step, "removed")}
    assert len(one_of) >= 8
    for (step, rule), row in one_of.items():
        (story,) = explain_document.stories(finished, str(row["id"]))
        assert story.fate == f"removed in {step} by {rule}"
        (check,) = (check for check in story.verdicts[-1].checks if check.outcome == "failed")
        assert check.rule == rule
        assert row["id"] in {s.row["id"] for s in explain_document.stories(finished, row["url"])}
        if step == "dedup":
            assert story.cluster is not None and story.cluster.keeper == row["duplicate_of"]
            assert row["id"] in {member["id"] for member in story.cluster.members}
            assert story.cluster.diff
    kept = rows(finished, "quality", "kept")[0]
    (story,) = explain_document.stories(finished, str(kept["id"]))
    assert story.fate == "kept up to quality" and [v.step for v in story.verdicts] == list(STEPS)


@pytest.mark.parametrize(("rule", "step"), [("fluency", "quality"), ("min_chars", "format")])
def test_flips_are_those_of_the_rows(finished: TextRun, rule: str, step: str) -> None:
    column = {"fluency": "fluency_score", "min_chars": "chars"}[rule]
    now, _ = bounds(finished.settings, rule, "en")
    assert now is not None
    at = sorted(row[column] for row in rows(finished, step, "kept"))[20]  # twenty fall, or more of equal value
    flips = explain_threshold.move(finished, rule, at, None, None, 5)
    assert flips.newly_removed == sum(now <= row[column] < at for row in rows(finished, step, "kept")) > 0
    assert flips.newly_kept == 0
    unmoved = explain_threshold.move(finished, rule, now, None, None, 0)
    assert (unmoved.newly_removed, unmoved.newly_kept, unmoved.relabelled) == (0, 0, 0)


def test_the_report_of_the_demo_is_light(finished: TextRun) -> None:
    assert write_report(finished.folder.parent).stat().st_size < 3 << 20
