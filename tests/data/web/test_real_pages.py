"""The stage on real pages: planted copies across dumps, damaged archives, and text that is no web page."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from scipy.stats import binom

from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.config.thresholds import RULES
from ilm_ray.data.dedup.minhash import catch_probability, shingle_hashes
from ilm_ray.data.documents.sources import is_dated
from tests.data.running import rows_of, run

# Everything that has text comes to Dedup, so that every planted copy is there to be found.
ALL_IN = [
    "text.languages=null",
    "text.min_chars=1",
    *(f"text.rules.{code}.{rule}=[null,null]" for code, table in RULES.items() for rule in table),
]


@pytest.mark.slow
def test_planted_copies_fall_and_the_newest_stays(shared_data: Path, local_ray: None, tmp_path: Path) -> None:
    text = run(tmp_path, f"input={shared_data}/web/CC-MAIN-*/*.warc.gz", *ALL_IN)
    groups: dict[str, dict[str, set[tuple[str, str]]]] = {"exact": defaultdict(set), "near": defaultdict(set)}
    with (shared_data / "web" / "overlap_truth.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["kind"] != "unique":
                groups[row["kind"]][row["group_id"]].add((row["url"], row["dump"]))
    entered = {(row["url"], row["dump"]): row for row in rows_of(text, "clean", "kept")}
    removed = {(row["url"], row["dump"]): row for row in rows_of(text, "dedup", "removed")}
    by_id = {row["id"]: row for row in entered.values()}

    # The newest dump's copy stays: nothing is kept instead of a newer document.
    assert all(is_dated(row["dump"]) for row in by_id.values())
    for row in removed.values():
        assert by_id[row["duplicate_of"]]["dump"] >= row["dump"]

    here = {key: members & entered.keys() for key, members in groups["exact"].items()}
    assert sum(len(members) > 1 for members in here.values()) == len(groups["exact"]) == 130
    for members in here.values():
        assert len(members - removed.keys()) <= 1
        newest = max(dump for _, dump in members)
        assert all(dump == newest for _, dump in members - removed.keys())

    grams = {key: set(shingle_hashes(row["text"], 5).tolist()) for key, row in entered.items()}
    chances, caught = [], 0
    for members in groups["near"].values():
        pair = sorted(members & entered.keys(), key=lambda key: entered[key]["id"])
        if len(pair) == 2:
            first, second = (grams[key] for key in pair)
            alike = len(first & second) / len(first | second)
            # It shares a band, and at least 90 of 128 values: the signature too puts it at 0.7.
            chances.append(catch_probability(alike, 14, 9) * float(binom.sf(89, 128, alike)))
            caught += pair[1] in removed
    print(f"exact groups {len(here)}, near pairs {len(chances)}, expected {sum(chances):.1f}, caught {caught}")
    # Other copies of a page can connect the two of a pair: caught may lie above the curve, not below.
    assert caught >= sum(chances) - 3 * sum(p * (1 - p) for p in chances) ** 0.5


@pytest.mark.slow
def test_damaged_and_odd_archives_are_all_accounted_for(shared_data: Path, local_ray: None, tmp_path: Path) -> None:
    text = run(tmp_path, f"input={shared_data}/web/[mo]*/**", "text.languages=null")
    about = list(read_jsonl(text / "files.jsonl.zst"))
    there = [p for name in ("malformed", "original") for p in (shared_data / "web" / name).rglob("*") if p.is_file()]
    assert {row["file"].rpartition("/shared/data/web/")[2] for row in about} == {
        str(path.relative_to(shared_data / "web")) for path in there
    }
    for row in about:  # something was read, or it says why nothing was
        assert row["records"], row["file"]
    whole = json.loads((text / "records.json").read_text())
    assert whole == {k: sum(r["records"].get(k, 0) for r in about) for k in whole}
    strange = {Path(row["file"]).name for row in about if row["records"].get("not_an_archive")}
    assert strange == {"cases.csv", "records.csv", "warcprotocol_malformed_header.warc"}


def test_books_and_papers_enter_as_text_with_settings_of_their_own(local_ray: None, tmp_path: Path) -> None:
    prose = "The river rose in the night, and by the morning the lower fields were under water. " * 40
    chapters = [f"{prose} Chapter {name} tells of the {name} flood, which nobody who saw it forgot." for name in "abcd"]
    (tmp_path / "books").mkdir()
    for number, words in enumerate(chapters[:2]):
        (tmp_path / "books" / f"{number}.txt").write_text(words)
    papers = [{"body": chapters[2], "url": "doi:1"}, {"body": "too short"}, {"body": chapters[0]}]
    write_jsonl(tmp_path / "papers.jsonl.zst", papers)
    rules = json.dumps({"en": {rule: [None, None] for rule in RULES["en"]}})
    text = run(
        tmp_path / "run",
        "input=null",
        f"text.sources={{books: {{input: '{tmp_path}/books/*.txt', settings: {{min_chars: 1000, rules: {rules}}}}},"
        f" papers: {{input: '{tmp_path}/papers.jsonl.zst', text_field: body}}}}",
    )
    formatted = rows_of(text, "format", "kept")
    assert {row["source"] for row in formatted} == {"books", "papers"}
    assert [row["drop_rule"] for row in rows_of(text, "format", "removed")] == ["min_chars"]
    # The same text passes as a book, whose rules allow repetition, and falls as a paper.
    fallen = rows_of(text, "clean", "removed")
    assert {row["source"] for row in fallen} == {"papers"} and len(fallen) == 2
    assert {row["source"] for row in rows_of(text, "clean", "kept")} == {"books"}
    assert {row["dump"] for row in formatted} == {"books", "papers"}


@pytest.mark.slow
def test_real_books_survive(shared_data: Path, local_ray: None, tmp_path: Path) -> None:
    whole = "settings: {rules: {en: {words: [50, null]}, zh: {words: [50, null]}}}"  # a book is longer than a page
    text = run(
        tmp_path / "run",
        "input=null",
        f"text.sources={{books_en: {{input: '{shared_data}/text/books_en/*.txt', {whole}}}, "
        f"books_zh: {{input: '{shared_data}/text/books_zh/*.txt', {whole}}}}}",
    )
    entered = rows_of(text, "format", "kept")
    fallen = {Path(row["url"]).name: row["drop_rule"] for row in rows_of(text, "clean", "removed")}
    assert len(entered) == 11
    # A dictionary is lists; a play's lines are short.
    assert fallen.keys() <= {"972.txt", "dvldc10.txt", "tinyshakespeare.txt"}, fallen
    # Two editions of News from Nowhere, and of the dictionary if its lists pass: the same text twice.
    assert len(rows_of(text, "dedup", "removed")) >= 1
