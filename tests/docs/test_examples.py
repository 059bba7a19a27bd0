"""The driver scripts of docs/examples, each as a process of its own, against what can be told without them."""

import csv
import json
import math
import operator
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.plain_rules import plain_scores
from demo import DATA
from ilm_ray.alignment.reward.conditional import CONDITIONS, HASH, conditions_hash, save_conditions
from ilm_ray.alignment.reward.task import pair_scores
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config import load_config, save_config
from ilm_ray.data.documents.document import read_documents
from ilm_ray.data.documents.language import detect_language
from ilm_ray.data.documents.passes import FileTask, run_pass
from ilm_ray.data.documents.paths import outputs, write_sources
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.pipeline import BEFORE_DEDUP
from ilm_ray.model.internlm2 import Packed, ScalarModel, initialize
from ilm_ray.model.weights import load_scalar, save_internlm2
from ilm_ray.report.explain import document as explain_document
from ilm_ray.report.explain.text_run import open_run
from tests.alignment.small_run import SHAPE, config_of, make_run, pairs_of
from tests.data.web.rubbish import KINDS

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
TEXT = """The miller opens the gate every morning and lets the water run over the wooden wheel.
By noon the sacks stand in a long row, and farmers from three villages wait in the yard.
Nobody remembers who built the dam, although an old letter in the church names a monk.
When the river freezes, the whole family carries buckets from the well behind the barn.
In spring the swallows return, and their nests fill the corners under the mossy roof."""
GERMAN = "Der Müller öffnet jeden Morgen das Tor und lässt das Wasser über das hölzerne Rad laufen. " * 4


def run_example(name: str, *arguments: str, code: int = 0) -> tuple[list[list[str]], str]:
    """The rows that it printed, cut at tabs, and its stderr."""
    done = subprocess.run(
        [sys.executable, f"docs/examples/{name}.py", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == code, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()], done.stderr


def test_texts_fall_by_the_rule_that_plain_python_finds_first(tmp_path: Path) -> None:
    config = load_config("nano").text
    rng = random.Random(3)
    texts = [TEXT, "Too short.", GERMAN, TEXT.upper(), "".join(c + "~^" * (c in "aeo") for c in TEXT)]
    texts += [make(TEXT, "en", rng) for make in KINDS.values()]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "url": str(n)}) + "\n" for n, text in enumerate(texts)))
    rows, stderr = run_example("filter_texts", str(path))
    assert rows[:3] == [["kept", "", "", "0"], ["min_chars", "10", "200", "1"], ["language", "de", "", "2"]]
    for text, (rule, value, threshold, url) in zip(texts[3:], rows[3:], strict=True):
        language, _ = detect_language(text)
        if language not in ("en", "zh"):
            assert (rule, value) == ("language", language), url
            continue
        scores = plain_scores(drop_chrome(normalise(text))[0], language)
        broken = (
            (name, scores[name], bound)
            for name, (low, high) in config.rules[language].items()
            for bound, wrong in ((low, operator.lt), (high, operator.gt))
            if bound is not None and wrong(scores[name], bound)
        )
        assert [rule, value, threshold] == [str(word) for word in next(broken, ("kept", "", ""))], url
    fallen = Counter(row[0] for row in rows)
    assert len(fallen) > 5
    assert stderr.strip().endswith(f"{len(texts)} documents, {len(texts) - fallen['kept']} removed")


def test_a_bound_can_be_moved_and_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    rows, _ = run_example("filter_texts", str(tmp_path / "a.txt"), "text.rules.en.words=[100, null]")
    assert [row[:3] for row in rows] == [["words", str(float(len(TEXT.split()))), "100.0"]]
    rows, stderr = run_example("filter_texts", "/nowhere/a.warc.gz", code=2)
    assert not rows and "/nowhere/a.warc.gz" in stderr and len(stderr.splitlines()) == 1


def test_pages_of_an_archive_fall_as_explain_tells_of_a_run(tmp_path: Path) -> None:
    archive = DATA / "web" / "CC-MAIN-2024-33" / "part-00001.warc.gz"
    config = load_config("nano", None, [f"input={archive}"])
    (source,) = find_sources(str(archive))
    folder = tmp_path / "text"
    run_pass("cleaned", BEFORE_DEDUP, FileTask(source, folder, config.text))
    write_sources(folder, [source])
    save_config(config, tmp_path / "config.yaml")
    run = open_run(tmp_path)
    formatted = [document for path in outputs(folder, "cleaned", 0)[:2] for document in read_documents(path)]
    rows, _ = run_example("filter_texts", str(archive))
    assert len(rows) == len(formatted) > 50
    for page, (rule, value, threshold, url) in zip(sorted(formatted, key=lambda each: each.id), rows, strict=True):
        (story,) = explain_document.stories(run, str(page.id))
        last = story.verdicts[-1]
        assert url == page.url and rule == (last.fell or "kept")
        if last.fell:
            assert (value, threshold) == (str(last.value), "" if last.threshold is None else str(last.threshold))
    # What the corpus's generator meant: articles pass, what is too short or broken does not.
    with (DATA / "truth.csv").open(encoding="utf-8", newline="") as file:
        kinds = {row["url"]: row["kind"] for row in csv.DictReader(file) if archive.match(row["file"])}
    outcomes = [(kinds.get(row[3]), row[0]) for row in rows]
    assert {rule for kind, rule in outcomes if kind in ("article_en", "article_zh")} == {"kept"}
    assert all(rule != "kept" for kind, rule in outcomes if kind in ("short", "symbols", "garbled"))


def test_a_tiny_model_learns_from_packed_texts(tmp_path: Path) -> None:
    texts = [TEXT, TEXT.replace("miller", "baker").replace("river", "pond")]
    paths = [tmp_path / f"{n}.txt" for n in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    (first, *rows), _ = run_example("train_tiny", *map(str, paths), "--steps", "30")
    # tiktoken's own count of cl100k's first 900 tokens, and a begin and an end token each.
    import tiktoken

    from ilm_ray.data.tokenizer.cl100k import cl100k

    ranks, pattern = cl100k()
    theirs = tiktoken.Encoding("first", pat_str=pattern, special_tokens={},
                               mergeable_ranks={t: r for t, r in ranks.items() if r < 900})  # fmt: skip
    tokens = sum(len(theirs.encode_ordinary(text)) + 2 for text in texts)
    assert first == [f"2 documents, {tokens} tokens"]
    losses, rates = [float(row[1]) for row in rows], [float(row[2]) for row in rows]
    assert [int(row[0]) for row in rows] == list(range(1, 31))
    assert losses[0] == pytest.approx(math.log(1024), abs=0.1)  # it knows nothing yet
    assert losses[-1] < losses[0] - 2 and losses[-1] < min(losses[:15])
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3]) and rates[-1] == pytest.approx(3e-4)


@pytest.mark.slow
def test_ppo_prints_what_its_groups_left_behind(tmp_path: Path) -> None:
    rows, _ = run_example("ppo_groups", str(tmp_path), "--iterations", "2")
    assert [row[0] for row in rows] == ["0", "1"]
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], 288)
    model = load_scalar(tmp_path / "models" / "reward")
    say = {"helpful": "Score how helpful the answer is.", "code": "Score the code."}
    for (_, reward, kl, length), path in zip(rows, sorted((tmp_path / "ppo" / "rollouts").iterdir()), strict=True):
        answers = pq.read_table(path).to_pylist()
        scores = []
        for answer in answers:
            response = answer["response"]
            ended = tokenizer.encode("\n") if response[-1] == tokenizer.im_end_id else []
            condition = [tokenizer.im_start_id, *tokenizer.encode(f"system\n{say[answer['domain']]}")]
            ids = [tokenizer.bos_id, *condition, tokenizer.im_end_id, *tokenizer.encode("\n"), *answer["prompt"][1:]]
            with torch.no_grad():
                scores.append(model(Packed.of([[*ids, *response, *ended, tokenizer.reward_id]]))[-1].item())
        divergence = [sum(answer["old_logprob"]) - sum(answer["ref_logprob"]) for answer in answers]
        assert float(reward) == pytest.approx(sum(scores) / len(scores), abs=1e-5)
        assert float(kl) == pytest.approx(sum(divergence) / len(divergence), abs=1e-5)
        assert float(length) == pytest.approx(sum(len(a["response"]) for a in answers) / len(answers), abs=0.01)
    assert float(rows[0][2]) == 0.0 != float(rows[1][2])  # the first answers are the reference's own
    assert (tmp_path / "ppo" / "model" / "model.safetensors").is_file()


def test_scores_are_those_of_training_under_each_condition(tmp_path: Path) -> None:
    make_run(tmp_path)
    config = config_of(tmp_path)
    prompts = config.reward.system_prompts
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    model, folder = ScalarModel(SHAPE), tmp_path / "reward" / "model"
    initialize(model, 5)
    save_internlm2(model, folder, {HASH: conditions_hash(tokenizer, prompts)})
    save_conditions(folder, tokenizer, prompts)
    question, answers = "Halve a number.", ["def half(x): return x / 2", "Divide it."]
    pair = {"prompt": [{"role": "user", "content": question}], "chosen": answers[0], "rejected": answers[1]}
    write_jsonl(tmp_path / "pairs.jsonl.zst", [{"domain": domain, **pair} for domain in prompts])
    reward = config.reward.model_copy(update={"data": str(tmp_path / "pairs.jsonl.zst")})
    config = config.model_copy(update={"reward": reward})
    save_config(config, tmp_path / "config.yaml")
    with torch.no_grad():
        chosen, rejected = pair_scores(model, pairs_of(config, tmp_path / "tokenizer", "train"))
    rows, _ = run_example("score_answers", str(tmp_path), question, *answers)
    assert [row[0] for row in rows] == list(prompts) and len({row[1] for row in rows}) == len(prompts)
    for (_, first, second, preferred), good, bad in zip(rows, chosen.tolist(), rejected.tolist(), strict=True):
        assert (float(first), float(second)) == pytest.approx((good, bad), abs=1e-4)
        assert preferred == ("first" if good > bad else "second")
    path = folder / CONDITIONS
    path.write_text(path.read_text().replace("C.", "D."))
    rows, stderr = run_example("score_answers", str(tmp_path), question, *answers, code=2)
    assert not rows and "trained with conditions of hash" in stderr and len(stderr.splitlines()) == 1
