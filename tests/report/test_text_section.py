"""The text section's figures are those of counting its rows; samples are bounded, chosen by id, nearest the line."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.jsonl import JsonObject, read_jsonl, write_jsonl
from ilm_ray.report.explain.text_run import open_run
from ilm_ray.report.html import diff
from ilm_ray.report.html.page import share, size
from ilm_ray.report.report import write_report
from ilm_ray.report.sections import text_samples
from ilm_ray.report.sections.documents import cluster_sizes
from ilm_ray.report.sections.text import flow
from tests.made_text import DUMPS, STEPS, fate, make_documents, write_text_run

DOCUMENTS = make_documents()


class Tables(HTMLParser):
    """Every table of a page by its caption: rows of cell texts, the header first."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption, self._inside = "", ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("td", "th", "caption"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th", "caption"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._caption += data
        elif self._inside:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_text_run(folder, DOCUMENTS)
    return folder


@pytest.fixture(scope="module")
def tables(run_dir: Path) -> dict[str, list[list[str]]]:
    return Tables(write_report(run_dir).read_text(encoding="utf-8")).tables


def rows_of(run_dir: Path, step: str, outcome: str = "*") -> Iterator[JsonObject]:
    """The rows of the documents that came to `step`, or that it kept or removed."""
    for path in (*(run_dir / "text").glob("*/removed-*.jsonl.zst"), *(run_dir / "text" / "final").glob("kept-*")):
        for row in read_jsonl(path):
            last = STEPS.index(row.get("drop_step", STEPS[-1]))
            fate = "removed" if row.get("drop_step") == step else "kept"
            if last >= STEPS.index(step) and outcome in ("*", fate):
                yield row | {"id": int(row["id"])}


def test_removal_by_rule_is_the_count_of_the_rows(run_dir: Path, tables: dict[str, list[list[str]]]) -> None:
    _, *lines = tables["Removed, by rule"]
    expected = []
    for step in STEPS:
        came = sum(1 for _ in rows_of(run_dir, step))
        removed = list(rows_of(run_dir, step, "removed"))
        for rule, count in Counter(row["drop_rule"] for row in removed).items():
            weight = sum(row["bytes"] for row in removed if row["drop_rule"] == rule)
            expected.append([step, rule, f"{count:,}", share(count, came), size(weight)])
    assert sorted(lines) == sorted(expected)


@pytest.mark.parametrize("key", ["language", "dump"])
def test_shares_by_group_are_those_of_the_rows(run_dir: Path, tables: dict[str, list[list[str]]], key: str) -> None:
    (_, *groups), *lines = tables[f"Share of the step's input that a rule removed, by {key}"]
    assert set(groups) == {d[key] for d in DOCUMENTS}
    for name, *cells in lines:
        step, rule = name.split(" / ")
        for group, cell in zip(groups, cells, strict=True):
            here = [row for row in rows_of(run_dir, step) if row[key] == group]
            removed = sum((row.get("drop_step"), row.get("drop_rule")) == (step, rule) for row in here)
            assert cell == (share(removed, len(here)) if removed else "–")


def test_documents_left_by_dump(run_dir: Path, tables: dict[str, list[list[str]]]) -> None:
    by_dump = {line[0]: line[1:] for line in tables["Documents left, by dump"][1:]}
    for dump in DUMPS:
        left = [sum(row["dump"] == dump for row in rows_of(run_dir, step, "kept")) for step in STEPS]
        came = sum(d["dump"] == dump for d in DOCUMENTS)
        assert by_dump[dump] == [str(came), *map(str, left), share(left[-1], came)]


def test_the_flow_groups_the_small_rules_and_loses_no_document(run_dir: Path) -> None:
    rows = json.loads((run_dir / "text" / "funnel.json").read_text())
    steps = flow(rows)
    assert steps[0].came == len(DOCUMENTS)
    assert steps[-1].left == sum(fate(d) is None for d in DOCUMENTS)
    many = [{"step": "clean", "rule": f"r{i}", "documents": i, "bytes": 1} for i in range(1, 12)]
    (step,) = flow([*many, {"step": "clean", "rule": "kept", "documents": 7, "bytes": 1}])
    assert step.left == 7 and len(step.removed) == 6
    assert step.removed[-1] == ("6 other rules", sum(range(1, 7)))


def test_cost_adds_up_over_files(run_dir: Path, tables: dict[str, list[list[str]]]) -> None:
    _, *lines = tables["Cost, by step"]
    assert [line[0] for line in lines] == [*STEPS, "all"]
    for line in lines[:-1]:
        documents = sum(1 for _ in rows_of(run_dir, line[0]))
        weight = sum(row["bytes"] for row in rows_of(run_dir, line[0]))
        assert line[1] == f"{documents:,}" and line[4] == "10" and line[5] == "103"
        assert float(line[2]) == pytest.approx(documents / 10, rel=1e-3)
        assert float(line[3]) == pytest.approx(weight / 1e7, rel=1e-3)
    hours = 5 * 10 / 3600 / len(DOCUMENTS) * 1e6
    assert float(lines[-1][6]) == pytest.approx(hours, rel=5e-3)


def test_records_and_skipped_bytes_are_told_apart(tables: dict[str, list[list[str]]]) -> None:
    assert ["html", str(len(DOCUMENTS))] in tables["What the input files held"]
    assert tables["Bytes that are no record"][1:] == [["truncated_gzip", size(5000)]]


def test_cluster_sizes(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [d["copy_of"] for d in DOCUMENTS if (fate(d) or ("",))[0] == "dedup"]
    sizes, one_in = cluster_sizes(open_run(run_dir))
    assert sizes == Counter(count + 1 for count in Counter(gone).values()) and one_in == 1
    monkeypatch.setattr("ilm_ray.report.sections.documents.DROP_BYTES", 3000)
    some, one_in = cluster_sizes(open_run(run_dir))
    assert one_in > 1 and not some - sizes  # whole clusters of some keepers, none cut


def test_removed_samples_are_those_of_the_smallest_hashes(run_dir: Path) -> None:
    seen = text_samples.look(open_run(run_dir))
    for view in seen.rules:
        removed = [row for row in rows_of(run_dir, view.step, "removed") if row["drop_rule"] == view.name]
        expected = sorted((row["id"] * 0x9E3779B97F4A7C15 % 2**64, row["id"]) for row in removed)[:20]
        assert [row["id"] for row in view.removed.items()] == [i for _, i in expected]


def test_borderline_samples_are_the_nearest_on_either_side(run_dir: Path) -> None:
    seen = text_samples.look(open_run(run_dir))
    view = next(v for v in seen.rules if v.name == "pornography")
    reached = [d for d in DOCUMENTS if (fate(d) or ("quality", ""))[0] in ("safe", "quality")]
    reached = [d for d in reached if (fate(d) or ("", ""))[1] not in ("blocked_word", "toxicity")]
    for falls in (True, False):
        side = [d["pornography_score"] for d in reached if (d["pornography_score"] < 0.45) == falls]
        values = [row["value"] for row in view.borderline() if (row["fell"] == "pornography") == falls]
        assert values == sorted(sorted(side, key=lambda v: abs(v - 0.45))[:10])


def test_scores_are_those_of_all_documents_of_the_step(run_dir: Path) -> None:
    seen = text_samples.look(open_run(run_dir))
    for view in seen.rules:
        if view.name in ("symbol_ratio", "duplicate_line_ratio"):
            came = [row[view.name] for row in rows_of(run_dir, "clean")]
            assert sorted([*view.removed_scores, *view.other_scores]) == sorted(came)
            assert len(view.removed_scores) == sum((fate(d) or ("", ""))[1] == view.name for d in DOCUMENTS)


def test_a_look_is_bounded_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_run(tmp_path, DOCUMENTS[:40])
    for file in range(30):
        row = {"url": "", "dump": "", "language": "en", "text": "t" * 9, "drop_step": "quality", "drop_rule": "r"}
        rows = [row | {"id": str(9 << 48 | file << 28 | i)} for i in range(50)]
        write_jsonl(tmp_path / "text" / "final" / f"removed-{file:05d}.jsonl.zst", rows)
    monkeypatch.setattr(text_samples, "FILES", 6)
    monkeypatch.setattr(text_samples, "ROWS", 10)
    seen = text_samples.look(open_run(tmp_path))
    view = next(v for v in seen.rules if v.name == "r")
    files = {row["id"] >> 28 & 0xFFFFF for row in view.removed.items()}
    assert files <= {0, 5, 10, 15, 20, 25} and len(files) > 3
    assert seen.files < seen.all_files and seen.rows <= 60 + 40


def test_pairs_show_the_copy_that_stays(run_dir: Path) -> None:
    seen = text_samples.look(open_run(run_dir))
    texts = {d["id"]: d["text"] for d in DOCUMENTS}
    assert len(seen.pairs) == text_samples.PAIRS
    for kept, double in seen.pairs:
        assert kept["id"] == double["duplicate_of"]
        assert kept["text"] == texts[kept["id"]].encode("utf-8", "replace").decode() and double["id"] in texts


def test_hostile_text_stays_inert_wherever_it_stands(run_dir: Path) -> None:
    source = write_report(run_dir).read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|a|svg onload|iframe)\b", source)
    assert "&lt;script&gt;alert(&#x27;owned&#x27;)&lt;/script&gt;" in source
    for title in ("Before and after cleaning", "pairs: struck out stands", "borderline"):
        assert title in source
    assert not any(c in source for c in "\x00\x1b\u202e\ud800")
    assert len(source) < 3 << 20


TEXTS = st.text(alphabet="ab <&'中。\n", max_size=60)


@given(TEXTS, TEXTS)
def test_a_diff_holds_both_texts(before: str, after: str) -> None:
    """Without its insertions it reads as the one text, without its deletions as the other."""
    shown = diff.word_diff(before, after)
    if before == after:
        assert "no difference" in shown
        return
    inner = re.sub(r"^<div[^>]*>|</div>$", "", shown).replace("↵", "")
    for gone, text in (("ins", before), ("del", after)):
        left = re.sub(rf"<{gone}>.*?</{gone}>", "", inner, flags=re.S)
        assert _plain(left) == text


def test_a_line_diff_marks_what_nobody_sees() -> None:
    shown = diff.line_diff("gone\nA\u00a0line\nsame\n" + "x\n" * 9, "A line\nsame\n" + "x\n" * 9)
    assert "<del>gone</del>" in shown or "<del>gone" in shown
    assert "⟨U+00A0⟩" in shown and shown.count("<div>x</div>") <= 1


def test_a_cut_text_ends_without_a_difference() -> None:
    long = " ".join(f"w{i}" for i in range(5000))
    shown = diff.word_diff(long, "new " + long)
    assert shown.count("<ins>") == 1 and "<del>" not in shown


def _plain(markup: str) -> str:
    class Text(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    parser = Text(convert_charrefs=True)
    parser.feed(markup)
    parser.close()
    return parser.text


def test_ids_in_the_order_of_their_hash_are_the_same_one_by_one_and_as_an_array() -> None:
    ids = [d["id"] for d in DOCUMENTS]
    assert text_samples.orders(np.array(ids, np.uint64)).tolist() == [text_samples.order(i) for i in ids]
