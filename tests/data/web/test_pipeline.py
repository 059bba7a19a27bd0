"""The whole stage on the demo corpus: what falls where, resume to identical bytes; and on real pages."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from scipy.stats import binom

from demo import DATA
from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path
from ilm_ray.base.jsonl import read_jsonl, sha256_of
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.minhash import catch_probability, shingle_hashes
from ilm_ray.data.documents import paths
from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.data.documents.passes import FileTask
from ilm_ray.data.documents.sources import Source, find_sources
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.web import pipeline, steps
from ilm_ray.data.web.classifiers import card
from ilm_ray.data.web.classifiers.features import GROUP_PLACES, PLACES
from ilm_ray.data.web.classifiers.linear import Linear
from ilm_ray.data.web.format.charset import decode
from ilm_ray.data.web.format.inputs import open_source
from ilm_ray.data.web.format.maintext import main_text
from ilm_ray.data.web.format.warc import read_captures
from ilm_ray.run.manifest import digest
from ilm_ray.run.stage import IN_PROGRESS
from tests.data.conftest import Counts
from tests.data.running import run


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and path.parent.name != "cost"  # costs differ
    }


def documents(folder: Path, *patterns: str) -> list[Document]:
    return [each for pattern in patterns for path in sorted(folder.glob(pattern)) for each in read_documents(path)]


def test_each_kind_of_page_ends_where_it_belongs(demo: Path) -> None:
    with (DATA / "truth.csv").open(newline="") as lines:
        kinds = {(row["url"], row["dump"]): row["kind"] for row in csv.DictReader(lines)}
    fate: dict[str, list[str]] = defaultdict(list)
    kept = documents(demo, "final/kept-*")
    for document in (*documents(demo, "*/removed-*"), *kept):
        fate[kinds[document.url, document.dump]].append(document.drop_rule or "kept")
    for kind in ("article_en", "article_zh", "code"):
        assert fate[kind].count("kept") >= 0.97 * len(fate[kind]), (kind, fate[kind])
    for kind in ("advertisement", "toxic", "adult", "garbled", "symbols", "repeated", "short"):
        assert fate[kind].count("kept") <= 0.1 * len(fate[kind]), (kind, fate[kind])
    assert set(fate["exact_duplicate"]) == {"exact_duplicate"}
    assert len({document.id for document in kept}) == len(kept)
    assert {document.language for document in kept} == {"en", "zh"}
    ranks, pattern = cl100k()
    tokens = tiktoken.Encoding("cl100k", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    assert all(document.token_num == len(tokens(document.text)) for document in kept)
    assert all(document.title and document.line_num == len(document.text.splitlines()) for document in kept)


def test_near_copies_are_caught_at_the_rate_of_the_curve(demo: Path) -> None:
    with (DATA / "truth.csv").open(newline="") as lines:
        near = {(r["url"], r["dump"]) for r in csv.DictReader(lines) if r["kind"] == "near_duplicate"}
    cleaned = documents(demo, "cleaned/kept-*")
    removed = {document.id for document in documents(demo, "final/removed-*") if document.drop_step == "dedup"}
    grams = {document.id: set(shingle_hashes(document.text, 5).tolist()) for document in cleaned}
    chances, caught = [], 0
    for document in cleaned:
        if (document.url, document.dump) in near:
            mine = grams[document.id]
            others = (grams[other] for other in grams if other < document.id)
            alike = max(len(mine & o) / len(mine | o) for o in others)
            # It shares a band, and at least 90 of 128 values: the signature too puts it at 0.7.
            chances.append(catch_probability(alike, 14, 9) * float(binom.sf(89, 128, alike)))
            caught += document.id in removed
    assert len(chances) > 10
    # One close copy is enough to catch a document; several only help.
    assert caught >= sum(chances) - 3 * sum(p * (1 - p) for p in chances) ** 0.5


def test_the_funnel_adds_up_to_the_files(demo: Path) -> None:
    funnel = json.loads((demo / "funnel.json").read_text())
    for before, after in zip(paths.STEPS, paths.STEPS[1:], strict=False):
        left = sum(row["documents"] for row in funnel if row["step"] == before and row["rule"] == "kept")
        assert left == sum(row["documents"] for row in funnel if row["step"] == after)
    counted: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for row in funnel:
        counted[row["step"], row["rule"]] += row["documents"]
        size[row["step"], row["rule"]] += row["bytes"]
    for part, last in (("cleaned", "clean"), ("final", "quality")):
        for document in documents(demo, f"{part}/*-*.jsonl.zst"):
            key = document.drop_step or last, document.drop_rule or "kept"
            counted[key] -= 1
            size[key] -= len(document.text.encode())
    # Between the steps of a pass nothing is written.
    left = {key for key in counted if key[1] == "kept" and key[0] not in ("clean", "quality")}
    assert {key for key, count in counted.items() if count} == left == {key for key in size if size[key]}


def test_a_text_is_written_once_before_and_once_after_deduplication(demo: Path) -> None:
    """Every document of Format lies in one file of the first pass, and what passed in one of the second."""
    first, last = (documents(demo, f"{part}/*-*.jsonl.zst") for part in ("cleaned", "final"))
    assert len({document.id for document in first}) == len(first) == 321
    passed = {document.id: document.text for document in first if document.drop_rule is None}
    assert {document.id: document.text for document in last} == passed and len(last) == len(passed)
    texts = {str(path.parent.relative_to(demo)) for path in demo.rglob("*.jsonl.zst") if path.parent != demo}
    assert texts == {"cleaned", "final", "dedup"}  # of `dedup` the list of replaced ids
    row = next(read_jsonl(paths.outputs(demo, "final", 0)[0]))
    assert isinstance(row["id"], str) and int(row["id"]) > 2**53  # what jq and browsers would round


def test_live_metrics_count_every_step_once(demo: Path, demo_counts: Counts) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for row in json.loads((demo / "funnel.json").read_text()):
        expected[f"text/{row['step']}", "kept" if row["rule"] == "kept" else "removed"] += row["documents"]
    assert expected == demo_counts.seen
    assert {stage for stage, _ in expected} == {f"text/{step}" for step in paths.STEPS}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    before = contents(demo)
    untouched = paths.outputs(demo, "cleaned", 2)[0]
    stamp = untouched.stat().st_mtime_ns
    (demo / "manifest.json").rename(tmp_path / "manifest.json")
    work = json.loads((tmp_path / "manifest.json").read_text())
    # What a kill leaves behind: the marker of work in progress, some files, half a temporary one.
    (demo / IN_PROGRESS).write_text(digest([work["settings"], work["inputs"]]))
    for path in (
        paths.outputs(demo, "cleaned", 0)[0],
        paths.outputs(demo, "cleaned", 1)[2],
        paths.signatures_path(demo, 3),
        paths.drops_path(demo, 0),
        paths.outputs(demo, "final", 2)[1],
        demo / "funnel.json",
        paths.model_path(demo, "fluency") / "card.json",
    ):
        path.unlink()
    kept = paths.outputs(demo, "final", 2)[0]
    half = temporary_path(paths.outputs(demo, "final", 2)[1])
    half.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    run(demo.parent)
    assert not half.exists()
    assert contents(demo) == before
    assert untouched.stat().st_mtime_ns == stamp


def test_missing_inputs_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for setting, message in (
        (f"input={tmp_path}/*.warc.gz", "matches no file"),
        (f"text.classifiers.fluency.labels={tmp_path}/none", "labels"),
        (f"text.blocked_words={tmp_path}/none.txt", "blocked_words"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.sources(load_config("nano", None, [setting]))


def test_a_list_in_a_wrong_charset_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("胡说八道".encode("gbk"))
    for name in ("blocked_words", "blocked_domains"):
        with pytest.raises(UserError, match="not UTF-8"):
            pipeline.sources(load_config("nano", None, [f"text.{name}={tmp_path}/list.txt"]))


def test_tasks_read_the_lists_of_the_stages_folder(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("Saucy\n")
    config = TextConfig(blocked_words=str(listed), blocked_domains=str(listed))
    steps.write_block_lists(tmp_path, config)
    listed.unlink()
    for name in ("toxicity", "pornography"):
        paths.model_path(tmp_path, name).mkdir(parents=True)
        Linear(np.zeros(PLACES, np.float32), 9.0, np.zeros(GROUP_PLACES, np.uint16)).save(
            paths.model_path(tmp_path, name)
        )
        (paths.model_path(tmp_path, name) / card.FILE).write_text('{"kind": "linear"}')
    batch = [Document(n, "https://a.test", "d", text=text) for n, text in enumerate(("a saucy word", "a word"))]
    ((removed, kept),) = steps.safe(iter([batch]), FileTask(Source(0, 0, 0, "d", "0.warc"), tmp_path, config))
    assert (removed.drop_rule, removed.drop_value, kept.drop_rule) == ("blocked_word", "saucy", None)


def test_a_rule_of_ones_own_travels_with_the_stage_and_its_content_counts(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def letters(text: str) -> float:\n    return len(text)\n")
    words = [f"text.own_rules.letters={mine}", "text.rules.en.letters=[null, 5]"]
    config = load_config("nano", None, words)
    before = pipeline.sources(config)
    text = steps.copy_own_rules(tmp_path, config.text)
    mine.write_text("def letters(text: str) -> float:\n    return 0\n")
    after = pipeline.sources(config)
    assert {key for key in before if before[key] != after[key]} == {"text.own_rules.letters"}
    mine.unlink()
    batch = [Document(0, "", "d", language="en", text="a text"), Document(1, "", "d", language="zh", text="a")]
    ((first, second),) = steps.clean(iter([batch]), FileTask(Source(0, 0, 0, "d", "0.warc"), tmp_path, text))
    assert (first.columns["letters"], second.columns["letters"]) == (6.0, 1.0)


@pytest.mark.long
def test_extraction_reaches_the_gold_texts(shared_data: Path) -> None:
    """F1 over must-have and must-not-have segments, on one WARC file."""
    gold = {}
    with (shared_data / "web" / "gold_text.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            gold[row["url"]] = row
    hits = misses = wrong = 0
    (source,) = find_sources(str(shared_data / "web" / "CC-MAIN-2024-10" / "part-00000.warc.gz"))
    with open_source(source) as stream:
        for capture in read_captures(stream, 1 << 22, Counter()):
            if capture.url in gold:
                text = main_text(decode(capture.body, capture.charset)[0]) or ""
                row = gold[capture.url]
                count = sum(segment in text for segment in row["with"])
                hits, misses = hits + count, misses + len(row["with"]) - count
                wrong += sum(segment in text for segment in row["without"])
    assert hits > 100
    assert 2 * hits / (2 * hits + misses + wrong) >= 0.88
