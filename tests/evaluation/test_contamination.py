"""Losses and their differences against a brute force and on models that did and did not see test items; overlap."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.config.data import DecontaminationConfig
from ilm_ray.data.decontamination.items import read_items
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.data.tokens.shards import TokenSource, write_shard
from ilm_ray.evaluation.contamination import contamination, item_losses, item_text
from ilm_ray.evaluation.overlap import by_benchmark, item_index, overlaps
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import save_internlm2
from jobs.contamination import main

VOCABULARY = 1024
ITEMS, PASSES, BATCH = 120, 14, 12  # of each set; passes over the training documents; documents a step


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    ranks, _ = cl100k()
    return Tokenizer(first_tokens(ranks, 900), VOCABULARY)


def small_model(seed: int) -> CausalLM:
    model = CausalLM(Shape(VOCABULARY, 2, 128, 2, 2, 32, 256))
    initialize(model, seed)
    return model


def test_losses_are_the_mean_negative_log_probabilities(tokenizer: Tokenizer) -> None:
    model = small_model(3).eval()
    texts = ["What is 2 + 2?\n4", "A much longer question, with words in it.\nAnd an answer.", "苹果"]
    for micro_tokens in (1, 20, 8192):
        losses = item_losses(model, tokenizer, texts, micro_tokens)
        for text, loss in zip(texts, losses, strict=True):
            ids = torch.from_numpy(tokenizer.encode_document(text).astype(np.int64))
            with torch.no_grad():
                logits = model(packed_from_arrays([ids.numpy()]))
            expected = -logits.log_softmax(-1)[:-1].gather(1, ids[1:, None]).mean()
            assert loss == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.long
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, inside, leaks = np.random.default_rng(5), 0, 0
    for trial in range(200):
        means = {"train": 1.1, "test": 1.0, "reference": 1.0}
        losses = {name: draw.normal(mean, 0.3, 80).tolist() for name, mean in means.items()}
        result = contamination(losses, trial, 400)
        inside += result.delta1.low <= 0 <= result.delta1.high
        leaks += result.leaked
        assert result.delta2.value == pytest.approx(np.mean(losses["test"]) - np.mean(losses["train"]))
    assert 178 <= inside <= 199  # 190 are expected of a 95% interval; 3 standard deviations are 9
    assert leaks <= 12


def test_planted_items_are_found_with_their_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "gsm.jsonl"
    rng = random.Random(1)
    words = [f"w{n}ord" for n in range(400)]

    def sentence(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    rows = [{"question": f"{sentence(25)}?", "answer": f"{sentence(20)}."} for _ in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    documents = []
    for number in range(40):
        text = f"{sentence(60)}. "
        if number in (7, 31):
            text += f"{rows[number % 20]['question']}\n{rows[number % 20]['answer']} {sentence(30)}"
        about = {"id": number, "url": f"https://made.test/{number}", "dump": "d"}
        documents.append(about | {"tokens": tokenizer.encode_document(text), "bytes": len(text.encode())})
    write_shard(tmp_path / "run" / "tokens" / "en" / "train", 0, documents)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    index, settings = item_index(read_items(path, "gsm"), DecontaminationConfig()), DecontaminationConfig()
    source = TokenSource(tmp_path / "run" / "tokens" / "en" / "train")
    matches = list(overlaps(source, "en", index, tokenizer, settings))
    assert {(row["id"], row["item"]) for row in matches} == {("7", "7"), ("31", "11")}
    assert by_benchmark(index, matches)["gsm"] == {"items": 20, "sought": 20, "found": 2, "documents": 2}
    out = tmp_path / "out"
    assert main(["overlap", "--run-dir", str(tmp_path / "run"), "--benchmarks", str(path), "--out", str(out)]) == 0
    assert {row["url"] for row in read_jsonl(out / "overlap.jsonl.zst")} == {
        "https://made.test/7",
        "https://made.test/31",
    }


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [word for name in ("train", "test", "reference") for word in (f"--{name}", str(tmp_path / "none.jsonl"))]
    assert main(["losses", "--model", str(tmp_path), *sets, "--out", str(tmp_path / "out")]) == 2
    assert "none.jsonl does not exist" in capsys.readouterr().err
    assert main(["overlap", "--run-dir", str(tmp_path), "--benchmarks", "x", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def train(seed: int, texts: list[str], tokenizer: Tokenizer) -> CausalLM:
    model, order = small_model(seed), random.Random(seed)
    documents = [tokenizer.encode_document(text).astype(np.int64) for text in texts]
    steps = PASSES * (len(documents) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(PASSES):
        order.shuffle(documents)
        for start in range(0, len(documents) - BATCH + 1, BATCH):
            chosen = documents[start : start + BATCH]
            labels = torch.from_numpy(np.concatenate([np.append(ids[1:], IGNORE) for ids in chosen]))
            loss = model(packed_from_arrays(chosen), labels, reduction="sum") / int((labels != IGNORE).sum())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", (1, 2, 3))
def test_a_model_that_saw_test_items_is_flagged_and_another_is_not(
    seed: int, tmp_path: Path, shared_data: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """GSM8K: half of the drawn test items may be planted, the other half is the reference."""
    gsm, draw = shared_data / "eval" / "gsm8k", random.Random(seed)
    tokenizer.save(tmp_path / "tokenizer")
    tested = draw.sample((gsm / "test.jsonl").read_text().splitlines(), 2 * ITEMS)
    trained = read_items(gsm / "train.jsonl.gz", "train")
    chosen = draw.sample(range(len(trained)), ITEMS)
    rows = {"test": tested[:ITEMS], "reference": tested[ITEMS:]}
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    seen = [item_text(trained[n]) for n in chosen]
    (tmp_path / "train.jsonl").write_text(
        "\n".join(json.dumps({"question": trained[n].question, "answer": trained[n].solution}) for n in chosen)
    )
    planted = [item_text(item) for item in read_items(tmp_path / "test.jsonl", "test")]
    others = [item_text(trained[n]) for n in draw.sample([n for n in range(len(trained)) if n not in chosen], ITEMS)]
    for name, texts in (("clean", seen + others), ("planted", seen + planted)):
        save_internlm2(train(seed, texts, tokenizer), tmp_path / name / "model")
    sets = [word for name in ("train", "test", "reference") for word in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
    models = [word for name in ("clean", "planted") for word in ("--model", str(tmp_path / name))]
    assert main(["losses", *models, *sets, "--out", str(tmp_path / "out")]) == 0
    clean, leaked = json.loads(capsys.readouterr().out.splitlines()[-1])["models"].values()
    with capsys.disabled():
        for name, result in (("clean", clean), ("planted", leaked)):
            figures = {k: {e: round(v, 4) for e, v in result[k].items()} for k in ("losses", "delta1", "delta2")}
            print(f"\nseed {seed} {name}: {figures}")
    assert leaked["leaked"] and not clean["leaked"]
    assert clean["overfitted"] and not leaked["overfitted"]  # both learned the training items by heart
    assert "<svg" in (tmp_path / "out" / "contamination.html").read_text()
