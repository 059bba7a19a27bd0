"""explain on a real run over the demo corpus: one document of every fate, thresholds against the rows themselves."""

import pytest

from ilm_ray.corpus.jsonl import Row, read_jsonl
from ilm_ray.observe.report import write_report
from ilm_ray.text import explain_document, explain_threshold
from ilm_ray.text.explain import TextRun, bounds, open_run
from ilm_ray.text.layout import STEPS
from tests.text.test_pipeline import run as run_text


@pytest.fixture(scope="module")
def demo(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    return open_run(run_text(tmp_path_factory.mktemp("demo")).parent)


def rows(run: TextRun, step: str, outcome: str) -> list[Row]:
    return [row for path in run.files(step, outcome) for row in read_jsonl(path)]


def test_one_document_of_every_fate(demo: TextRun) -> None:
    one_of = {(step, row["drop_rule"]): row for step in STEPS for row in rows(demo, step, "removed")}
    assert len(one_of) >= 8
    for (step, rule), row in one_of.items():
        (story,) = explain_document.stories(demo, str(row["id"]))
        assert story.fate == f"removed in {step} by {rule}"
        (check,) = (check for check in story.verdicts[-1].checks if check.outcome == "failed")
        assert check.rule == rule
        assert row["id"] in {s.row["id"] for s in explain_document.stories(demo, row["url"])}
        if step == "dedup":
            assert story.cluster is not None and story.cluster.keeper == row["duplicate_of"]
            assert row["id"] in {member["id"] for member in story.cluster.members}
            assert story.cluster.diff
    kept = rows(demo, "quality", "kept")[0]
    (story,) = explain_document.stories(demo, str(kept["id"]))
    assert story.fate == "kept up to quality" and [v.step for v in story.verdicts] == list(STEPS)


@pytest.mark.parametrize(("rule", "step", "at"), [("fluency", "quality", 0.7), ("min_chars", "format", 600)])
def test_flips_are_those_of_the_rows(demo: TextRun, rule: str, step: str, at: float) -> None:
    column = {"fluency": "fluency_score", "min_chars": "chars"}[rule]
    now, _ = bounds(demo.settings, rule, "en")
    assert now is not None
    flips = explain_threshold.move(demo, rule, at, None, None, 5)
    assert flips.newly_removed == sum(now <= row[column] < at for row in rows(demo, step, "kept")) > 0
    assert flips.newly_kept == 0
    unmoved = explain_threshold.move(demo, rule, now, None, None, 0)
    assert (unmoved.newly_removed, unmoved.newly_kept, unmoved.relabelled) == (0, 0, 0)


def test_the_report_of_the_demo_is_light(demo: TextRun) -> None:
    assert write_report(demo.folder.parent).stat().st_size < 3 << 20
