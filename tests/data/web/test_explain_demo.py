"""explain on a real run over the demo corpus: one document of every fate, thresholds against the rows themselves."""

from pathlib import Path

import pytest

from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.data.documents.paths import STEPS
from ilm_ray.report.explain import document as explain_document
from ilm_ray.report.explain import threshold as explain_threshold
from ilm_ray.report.explain.text_run import TextRun, bounds, open_run
from ilm_ray.report.report import write_report


@pytest.fixture(scope="module")
def finished(demo: Path) -> TextRun:
    return open_run(demo.parent)


def documents(run: TextRun, *folders: str) -> list[Document]:
    """Of `final/kept` and the like."""
    return [document for name in folders for path in run.files()[name] for document in read_documents(path)]


def kept_by(run: TextRun, step: str) -> list[Document]:
    """Documents that `step` left, whatever became of them later."""
    place = STEPS.index(step)
    fallen = documents(run, "cleaned/removed", "final/removed")
    return [*documents(run, "final/kept"), *(each for each in fallen if STEPS.index(str(each.drop_step)) > place)]


def test_one_document_of_every_fate(finished: TextRun) -> None:
    fallen = documents(finished, "cleaned/removed", "final/removed")
    one_of = {(document.drop_step, document.drop_rule): document for document in fallen}
    assert len(one_of) >= 8 and {step for step, _ in one_of} == set(STEPS)
    for (step, rule), document in one_of.items():
        (story,) = explain_document.stories(finished, str(document.id))
        assert story.fate == f"removed in {step} by {rule}"
        (check,) = (check for check in story.verdicts[-1].checks if check.outcome == "failed")
        assert check.rule == rule
        assert document.id in {s.document.id for s in explain_document.stories(finished, document.url)}
        if step == "dedup":
            assert story.cluster is not None and story.cluster.keeper == document.duplicate_of
            assert str(document.id) in {member["id"] for member in story.cluster.members}
            assert story.cluster.diff
    kept = documents(finished, "final/kept")[0]
    (story,) = explain_document.stories(finished, str(kept.id))
    assert story.fate == "kept up to quality" and [v.step for v in story.verdicts] == list(STEPS)


@pytest.mark.parametrize(("rule", "step"), [("fluency", "quality"), ("min_chars", "format")])
def test_flips_are_those_of_the_rows(finished: TextRun, rule: str, step: str) -> None:
    column = {"fluency": "fluency_score", "min_chars": "extracted_chars"}[rule]
    now, _ = bounds(finished.settings, rule, "en")
    assert now is not None
    values = sorted(document.columns[column] for document in kept_by(finished, step))
    at = values[20]  # twenty fall, or more of equal value
    flips = explain_threshold.move(finished, rule, at, None, None, 5)
    assert flips.newly_removed == sum(now <= value < at for value in values) > 0
    assert flips.newly_kept == 0
    unmoved = explain_threshold.move(finished, rule, now, None, None, 0)
    assert (unmoved.newly_removed, unmoved.newly_kept, unmoved.relabelled) == (0, 0, 0)


def test_the_report_of_the_demo_is_light(finished: TextRun) -> None:
    assert write_report(finished.folder.parent).stat().st_size < 3 << 20
