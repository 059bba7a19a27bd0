"""Bits per byte by position, against a plain loop that asks the model for one token after the other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.evaluation.pipeline import heldout_measures, measured
from ilm_ray.evaluation.positions import (
    bucket_edges,
    full_windows,
    measured_length,
    position_curve,
    windows_by_position,
)
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.model.weights import save_internlm2
from ilm_ray.report.sections.alignment import evaluation_section
from jobs.evaluation import STAGE

SHAPE = Shape(
    vocab_size=320, layers=2, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48, init_std=0.2
)
BYTES = np.array([1] * 256 + [0] * 64)  # a tokenizer of single bytes and special tokens


@pytest.fixture(scope="module")
def model() -> CausalLM:
    made = CausalLM(SHAPE)
    initialize(made, 5)
    return made.eval()


def _documents(seed: int, lengths: list[int]) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 262, n).astype(np.uint32) for n in lengths]


def plain_curve(model: CausalLM, documents: list[np.ndarray], length: int, most: int) -> list[tuple[float, int, int]]:
    """(nats, bytes, tokens) of the buckets 1, 2, 3-4, 5-8, ..., by the model's logits after each prefix alone."""
    buckets = dict[int, list[tuple[float, int]]]()
    windows = [d[s : s + length + 1] for d in documents for s in range(0, len(d), length) if s + length < len(d)][:most]
    for window in windows:
        for before in range(1, length + 1):
            with torch.no_grad():
                logits = model(Packed.of([window[:before].tolist()]))[-1].double()
            target = int(window[before])
            nats = -(logits[target] - logits.logsumexp(0)).item()
            buckets.setdefault(math.ceil(math.log2(before)), []).append((nats, int(BYTES[target])))
    return [(sum(n for n, _ in b), sum(s for _, s in b), len(b)) for _, b in sorted(buckets.items())]


@pytest.mark.parametrize(("length", "most"), [(16, 9), (11, 3), (1, 2)])
def test_every_bucket_is_what_a_plain_loop_adds_up(model: CausalLM, length: int, most: int) -> None:
    documents = _documents(length, [5, 40, 17, 12, 33])
    edges, windows = bucket_edges(length), full_windows(documents, length, most)
    with torch.no_grad():
        sums = windows_by_position(model, windows, torch.from_numpy(BYTES), edges)
    curve = position_curve(sums, edges, len(windows))
    plain = plain_curve(model, documents, length, most)
    assert curve["tokens"] == [tokens for _, _, tokens in plain]
    assert curve["loss"] == pytest.approx([nats / tokens for nats, _, tokens in plain], rel=1e-5)
    bits = [nats / math.log(2) / size if size else None for nats, size, _ in plain]
    assert [b is None for b in curve["bits_per_byte"]] == [b is None for b in bits]
    known = [(a, b) for a, b in zip(curve["bits_per_byte"], bits, strict=True) if b is not None]
    assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-5)


@given(st.integers(1, 5000), st.data())
def test_a_token_is_in_the_first_bucket_that_reaches_it(length: int, data: st.DataObject) -> None:
    before = data.draw(st.integers(1, length))
    edges = bucket_edges(length)
    assert edges[-1] == length and edges == sorted(set(edges)) and all(e & (e - 1) == 0 for e in edges[:-1])
    assert int(torch.bucketize(torch.tensor(before), torch.tensor(edges))) == sum(edge < before for edge in edges)


@given(st.integers(0, 300), st.integers(1, 300))
def test_windows_are_as_long_as_the_context_or_a_document_allows(longest: int, context: int) -> None:
    length = measured_length(longest, context)
    fits = [n for n in range(1, context + 1) if n + 1 <= longest and (n == context or n & (n - 1) == 0)]
    assert length == max(fits, default=0)


def test_the_run_measures_its_long_documents_or_the_text_that_is_named(local_ray: None, tmp_path: Path) -> None:
    """Through the run's files: shards, tokenizer and weights; specials stand for no bytes."""
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(tmp_path / "tokenizer")
    documents = _documents(1, [20, 9, 70])
    rows = [{"tokens": d.tolist(), "bytes": len(d), "id": n, "url": "", "dump": ""} for n, d in enumerate(documents)]
    write_shard(tmp_path / "tokens" / "en" / "heldout", 0, rows)
    made = CausalLM(SHAPE)
    initialize(made, 3)
    save_internlm2(made, tmp_path / "sft" / "model")
    text = tmp_path / "book.txt"
    text.write_text("Ein Jäger aus Kurpfalz. " * 9, encoding="utf-8")
    phases = load_config("nano", None, []).pretrain.phases
    for setting, expected, length in ((None, documents, 64), (text, [np.array([0, *text.read_bytes()])], 128)):
        words = [] if setting is None else [f"evaluation.position_text={setting}"]
        config = load_config("nano", None, words)
        assert phases[-1].context >= 128
        curve = heldout_measures({"sft": tmp_path / "sft" / "model"}, tmp_path, config)["sft"]["by_position"]
        assert curve["edges"][-1] == length
        if setting is not None:
            expected[0][0] = Tokenizer.load(tmp_path / "tokenizer").bos_id
        plain = plain_curve(made.eval(), expected, length, 99)
        assert curve["tokens"] == [tokens for _, _, tokens in plain]
        assert curve["loss"] == pytest.approx([nats / tokens for nats, _, tokens in plain], rel=1e-4)


def test_bf16_gives_the_figures_of_fp32_but_for_its_rounding(tmp_path: Path) -> None:
    """What a GPU computes with, on a core."""
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(tmp_path / "tokenizer")
    rows = [
        {"tokens": d.tolist(), "bytes": len(d), "id": n, "url": "", "dump": ""}
        for n, d in enumerate(_documents(2, [40, 300]))
    ]
    write_shard(tmp_path / "tokens" / "en" / "heldout", 0, rows)
    made = CausalLM(SHAPE)
    initialize(made, 3)
    save_internlm2(made, tmp_path / "model")
    exact, rounded = (
        measured(tmp_path / "model", tmp_path, 128, 256, None, "cpu", dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded["bits_per_byte"] == pytest.approx(exact["bits_per_byte"], rel=0.01)
    assert rounded["bits_per_byte"] != exact["bits_per_byte"]
    assert rounded["by_position"]["tokens"] == exact["by_position"]["tokens"]
    assert rounded["by_position"]["loss"] == pytest.approx(exact["by_position"]["loss"], rel=0.02)


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = load_config("nano", None, [f"evaluation.position_text={tmp_path / 'none.txt'}"])
    with pytest.raises(UserError, match=r"evaluation\.position_text=.*none\.txt cannot be read"):
        STAGE.sources(config)


def test_the_report_draws_a_line_a_stage(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    curve = {"edges": [1, 2, 4, 8], "windows": 3, "tokens": [3, 3, 6, 12], "bits_per_byte": [None, 3.25, 2.5, 1.125]}
    evaluation = {"by_position": {"sft": curve, "ppo": curve | {"bits_per_byte": [4.0, 3.5, 2.75, 1.5]}}}
    (tmp_path / "evaluation/evaluation.json").write_text(json.dumps(evaluation))
    made = evaluation_section(tmp_path, {})
    assert "3 windows of 8 tokens" in made
    for figure in ("sft: 1.125", "ppo: 4<", "ppo: 1.5<"):
        assert figure in made
    assert "nan" not in made
    (tmp_path / "evaluation/evaluation.json").write_text(json.dumps({"by_position": {"sft": {}}}))
    assert "<svg" not in evaluation_section(tmp_path, {})
