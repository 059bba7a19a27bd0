"""explain against an oracle that decides again with the moved threshold, one document at a time."""

import copy
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ilm_ray.data.documents.document import Document
from ilm_ray.report.explain import document as explain_document
from ilm_ray.report.explain import threshold as explain_threshold
from ilm_ray.report.explain.text_run import TextRun, bounds, of_source, open_run, rules_of
from jobs.explain import main
from tests.made_text import SETTINGS, STEPS, fate, make_documents, write_text_run
from tests.made_text import Document as MadeDocument

DOCUMENTS = make_documents()
ORDER = ("min_chars", "language", "symbol_ratio", "mean_word_chars", "duplicate_line_ratio", "exact_duplicate",
         "near_duplicate", "blocked_word", "toxicity", "pornography", "advertisement", "fluency")  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_text_run(folder, DOCUMENTS)
    return folder


@pytest.fixture(scope="module")
def run(run_dir: Path) -> TextRun:
    return open_run(run_dir)


def moved(rule: str, at: float, side: str, language: str | None) -> dict[str, Any]:
    """The settings with one bound moved."""
    settings: dict[str, Any] = copy.deepcopy(SETTINGS)
    tables = [settings["rules"], settings["sources"]["papers"]["settings"]["rules"]]
    for name, table in ((name, table) for group in tables for name, table in group.items()):
        place = 0 if side == "low" else 1
        if rule in table and (language == name or (language is None and table[rule][place] is not None)):
            table[rule][place] = at
    if rule in settings["classifiers"]:
        settings["classifiers"][rule]["threshold"] = at
    if rule == "near_duplicate":
        settings["threshold"] = at
    if rule == "min_chars":
        settings["min_chars"] = at
    if rule == "blocked_word":
        settings["allowed_blocked_words"] = at
    return settings


CASES = [
    ("min_chars", 180.0, "low"),
    ("min_chars", 400.0, "low"),
    ("symbol_ratio", 0.1, "high"),
    ("symbol_ratio", 0.5, "high"),
    ("mean_word_chars", 4.0, "low"),
    ("mean_word_chars", 1.0, "low"),
    ("mean_word_chars", 7.0, "high"),
    ("duplicate_line_ratio", 0.05, "high"),
    ("near_duplicate", 0.85, "high"),
    ("blocked_word", 1.0, "high"),
    ("toxicity", 0.8, "low"),
    ("toxicity", 0.1, "low"),
    ("pornography", 0.7, "low"),
    ("advertisement", 0.2, "low"),
    ("fluency", 0.75, "low"),
]


@pytest.mark.parametrize("language", [None, "en", "zh"])
@pytest.mark.parametrize(("rule", "at", "side"), CASES)
def test_flips_are_those_of_deciding_again(run: TextRun, rule: str, at: float, side: str, language: str | None) -> None:
    unbounded = (rule, language) == ("mean_word_chars", "zh")
    flips = explain_threshold.move(run, rule, at, side if unbounded else None, language, 0)
    assert flips.side == side
    step, settings = flips.rule.step, moved(rule, at, side, language)
    expected: Counter[str] = Counter()
    later: Counter[str] = Counter()
    by_language: dict[str, Counter[str]] = {}
    for document in DOCUMENTS:
        now, then = fate(document), fate(document, settings)
        # What another step does is not asked: there, a document that comes through counts as kept.
        here_now, here_then = (x[1] if x and x[0] == step else None for x in (now, then))
        if (language and document["language"] != language) or (now and STEPS.index(now[0]) < STEPS.index(step)):
            continue
        kind = None
        if here_now is None and here_then == rule:
            kind = "newly removed"
        elif here_now == rule and here_then != rule:
            kind = "newly kept"
            later.update([here_then] if here_then else [])
        elif here_now not in (None, rule) and here_then == rule:
            expected["relabelled"] += 1
        if kind:
            expected[kind] += 1
            by_language.setdefault(document["language"], Counter())[kind] += 1
    counts = {"newly removed": flips.newly_removed, "newly kept": flips.newly_kept, "relabelled": flips.relabelled}
    assert Counter(counts) == expected
    assert flips.falls_later == later and flips.by_language == by_language
    assert sum((c for c in flips.by_dump.values()), Counter()) == sum((c for c in by_language.values()), Counter())
    if language is None:
        assert expected  # the case shows something


def test_nothing_flips_where_the_threshold_is(tmp_path: Path) -> None:
    write_text_run(tmp_path, [d for d in DOCUMENTS if not d["source"]])  # a source may have another threshold
    run = open_run(tmp_path)
    for rule, language in itertools.product(ORDER, ("en", "zh")):
        if rule in ("language", "exact_duplicate"):
            continue
        for side, at in zip(("low", "high"), bounds(SETTINGS, rule, language), strict=True):
            if at is not None:
                flips = explain_threshold.move(run, rule, at, side, language, 0)
                assert flips.documents > 0 or (rule, language) == ("mean_word_chars", "zh")
                assert (flips.newly_removed, flips.newly_kept, flips.relabelled) == (0, 0, 0)


def test_what_the_rows_cannot_tell_is_said(run: TextRun) -> None:
    """A copy that verification let pass has no similarity in its row: a lower threshold would need a new run."""
    flips = explain_threshold.move(run, "near_duplicate", 0.66, None, None, 0)
    assert flips.newly_removed == 0 and flips.unscored > 0
    assert any("without a new run" in note for note in flips.notes)


def test_samples_are_the_nearest(run: TextRun) -> None:
    flips = explain_threshold.move(run, "symbol_ratio", 0.2, None, "zh", 12)
    reached = [d for d in DOCUMENTS if d["language"] == "zh" and (fate(d) or ("quality",))[0] != "format"]
    nearest = sorted(reached, key=lambda d: (abs(d["symbol_ratio"] - 0.2), d["id"]))[:12]
    assert [row["id"] for row in flips.nearest] == [str(d["id"]) for d in nearest]
    for row in flips.nearest:
        fell = row["value"] > 0.2
        assert row["then"].startswith("removed by symbol_ratio") == fell


def test_a_source_keeps_its_own_bounds(run: TextRun) -> None:
    assert bounds(of_source(SETTINGS, "papers"), "symbol_ratio", "en") == (None, 0.6)
    assert bounds(of_source(SETTINGS, "papers"), "mean_word_chars", "en") == (2.5, 10.0)
    rules = run.rules("clean", Document(0, "", "", source="papers", language="en"))
    assert [bounded.high for bounded in rules if bounded.rule.name == "symbol_ratio"] == [0.6]


def test_rules_stand_in_the_order_of_the_configuration(run: TextRun, run_dir: Path) -> None:
    """The manifest sorts its keys, and the first failing rule depends on their order."""
    names = [rule.name for rule in rules_of(run.settings, "clean", "en")]
    assert names == list(SETTINGS["rules"]["en"])
    manifest = json.loads((run_dir / "text" / "manifest.json").read_text())
    assert list(manifest["settings"]["text"]["rules"]["en"]) != names


def test_the_manifest_outweighs_a_configuration_of_a_later_job(tmp_path: Path) -> None:
    write_text_run(tmp_path, DOCUMENTS[:50])
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["text"]["min_chars"] = 999
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert bounds(open_run(tmp_path).settings, "min_chars", "en") == (200, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["threshold", "--rule", "symbol_ration", "--at", "1"], "did you mean 'symbol_ratio'"),
        (["threshold", "--rule", "toxicity_score", "--at", "1"], "did you mean 'toxicity'"),
        (["threshold", "--rule", "blocked_domain", "--at", "1"], "has no score"),
        (["threshold", "--rule", "language", "--at", "1"], "has no score"),
        (["threshold", "--rule", "toxicity", "--at", "nan"], "--at"),
        (["threshold", "--rule", "toxicity"], "--at"),
        (["document", "https://host7.test/page?<b>&q=2000"], "nearest: https://host7.test/page?<b>&q="),
        (["document", "https://nowhere.test/"], "no document of URL"),
        (["document", "12"], "document 12 is not in this run"),
        (["document", str(DOCUMENTS[0]["id"] + (1 << 27))], "holds no such document"),
        (["rollout-of-nothing"], "invalid choice"),
    ],
)
def test_what_does_not_exist_is_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--run-dir", str(run_dir)]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and words in captured.err
    assert json.loads(captured.out)["status"] == "refused"


def test_a_folder_without_a_text_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["document", "1", "--run-dir", str(folder)]) == 2
    assert "run jobs/web_text.py" in capsys.readouterr().err


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text_run(tmp_path, DOCUMENTS[:50])
    path = tmp_path / "text" / "final" / "kept-00000.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    assert main(["threshold", "--rule", "symbol_ratio", "--at", "0.1", "--run-dir", str(tmp_path)]) == 2
    assert "kept-00000.jsonl.zst is damaged" in capsys.readouterr().err


def test_the_job_says_the_same_in_words_and_in_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["threshold", "--rule", "fluency", "--at", "0.6", "--samples", "3", "--run-dir", str(run_dir)]
    assert main(arguments) == 0
    words = capsys.readouterr().out.splitlines()
    assert main([*arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    summary, answer = json.loads(words[-1]), json.loads(line)
    assert len(answer.pop("samples")) == 3 and answer == summary
    assert any(f"{answer['newly_removed']:,}  newly removed" in word for word in words)
    assert all(c.isprintable() for word in words[:-1] for c in word)  # no escape sequence reaches the terminal


@pytest.mark.parametrize("ending", [*[None], *ORDER])
def test_the_story_of_a_document_of_every_fate(run: TextRun, ending: str | None) -> None:
    document = next(d for d in DOCUMENTS if (fate(d) or ("", None))[1] == ending and not d["source"])
    (story,) = explain_document.stories(run, str(document["id"]))
    step = fate(document)[0] if ending else "quality"  # type: ignore[index]
    assert [v.step for v in story.verdicts] == list(STEPS[: STEPS.index(step) + 1])
    assert [v.fell for v in story.verdicts] == [None] * (len(story.verdicts) - 1) + [ending]
    for verdict in story.verdicts:
        outcomes = [check.outcome for check in verdict.checks]
        broken = outcomes.index("failed") if verdict.fell else len(outcomes)
        assert outcomes == ["passed"] * broken + ["failed"] * bool(verdict.fell) + ["not asked"] * (
            len(outcomes) - broken - 1
        )
        assert verdict.fell is None or verdict.checks[broken].rule == verdict.fell
    _check_cluster(story, document)
    assert json.dumps(explain_document.summary(story)) and explain_document.lines(story)


def _check_cluster(story: explain_document.Story, document: MadeDocument) -> None:
    gone = [d for d in DOCUMENTS if (fate(d) or ("",))[0] == "dedup"]
    keeper = document["copy_of"] if document in gone else document["id"]
    copies = {d["id"] for d in gone if d["copy_of"] == keeper}
    if not copies or (fate(document) or ("quality",))[0] in ("format", "clean"):
        assert story.cluster is None
        return
    assert story.cluster is not None and story.cluster.keeper == keeper
    assert story.cluster.size == len(copies) + 1
    assert {m["id"] for m in story.cluster.members} == {str(number) for number in copies | {keeper}}
    likeness = {int(m["id"]): m["similarity"] for m in story.cluster.members}
    assert all(likeness[d["id"]] == d["similarity"] for d in gone if d["copy_of"] == keeper)
    assert bool(story.cluster.diff) == (document in gone)


def test_a_url_finds_all_its_captures_newest_dump_first(run: TextRun) -> None:
    url = DOCUMENTS[300]["url"]
    stories = explain_document.stories(run, url)
    assert [s.document.id for s in stories] == sorted(d["id"] for d in DOCUMENTS if d["url"] == url)


def test_the_diff_is_by_sentences() -> None:
    kept = "One river. It is long.\n\n第一句。第二句。"
    diff = explain_document.unified_diff(kept, kept.replace("long", "short").replace("第二", "第三"), "a", "b")
    changed = {line for line in diff[2:] if line[0] in "+-"}
    assert changed == {"-It is long.", "+It is short.", "-第二句。", "+第三句。"}
