"""The perplexity difference against a plain computation with Transformers, one sequence at a time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.data.longtext.models import HuggingFaceModel, OwnModel, load_scorer, scorer_files
from ilm_ray.data.longtext.perplexity import Cut, differences, score_documents, segment_pairs, token_batches
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.model.weights import save_internlm2

CUT = Cut(16, 40)
TEXTS = [
    " ".join(f"{word}{i % 7}" for i, word in enumerate(["river", "stone", "it", "was"] * n)) for n in (30, 4, 55, 1)
]


def plain_differences(llama: Path, ids: np.ndarray) -> list[float]:
    """Every pair by two forwards of Transformers: means over S2, as the definition says."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()

    def log_probs(sequence: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
        return [float(logits[at, token]) for at, token in enumerate(sequence[1:])]

    values = []
    for pair in segment_pairs(len(ids), CUT):
        first, second = ids[pair.start : pair.middle].tolist(), ids[pair.middle : pair.stop].tolist()
        alone, after = log_probs(second), log_probs(first + second)[len(first) :]
        values.append(sum(a - b for a, b in zip(after, alone, strict=True)) / len(alone))
    return values


@pytest.mark.parametrize("kind", ["own", "llama"])
@pytest.mark.parametrize("limit", [1, 100, 4096])
def test_differences_equal_a_plain_computation(scorers: Path, kind: str, limit: int) -> None:
    model = load_scorer(str(scorers / kind), None, 2 * CUT.segment)
    assert isinstance(model, OwnModel if kind == "own" else HuggingFaceModel)
    documents = [model.encode(text) for text in TEXTS]
    by_document = differences(documents, CUT, model.log_probs, limit)
    assert max(map(len, by_document)) > 5 and min(map(len, by_document)) == 0
    for document, values in zip(documents, by_document, strict=True):
        assert values.tolist() == pytest.approx(plain_differences(scorers / "llama", document), abs=2e-4)


def test_rows_show_the_pair_that_fits_worst(scorers: Path) -> None:
    model = load_scorer(str(scorers / "own"), None, 2 * CUT.segment)
    rows = [{"id": at, "text": text} for at, text in enumerate(TEXTS)]
    scored_rows = list(score_documents(rows, model, CUT, 4096))
    assert [row["id"] for row in scored_rows] == [0, 1, 2, 3]
    for row, text in zip(scored_rows, TEXTS, strict=True):
        if row["perplexity_difference"] is None:
            assert not row["differences"]
            continue
        assert row["ending"] in text and row["beginning"] in text
        assert row["ending"] + row["beginning"] in text


@given(st.integers(0, 900), st.integers(8, 60), st.integers(2, 20))
def test_pairs_go_evenly_from_the_beginning_to_the_end(length: int, segment: int, most: int) -> None:
    pairs = segment_pairs(length, Cut(segment, most))
    assert bool(pairs) == (length >= segment) and len(pairs) <= most
    if not pairs:
        return
    assert pairs[0].start == 0 and pairs[-1].stop == length
    assert all(p.middle - p.start == p.stop - p.middle == segment for p in pairs) or len(pairs) == 1
    steps = np.diff([p.start for p in pairs])
    assert len(pairs) == 1 or steps.max() - steps.min() <= 1
    assert len(pairs) in (1, most) or steps.max() <= segment // 2 + 1


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_batches_hold_every_sequence_once_and_keep_the_limit(lengths: list[int], limit: int) -> None:
    batches = list(token_batches(lengths, limit))
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[at] for at in batch) <= limit for batch in batches)
    order = [lengths[at] for batch in batches for at in batch]
    assert order == sorted(order)


def test_what_is_no_scorer_is_refused(tmp_path: Path, scorers: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        scorer_files(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        scorer_files(str(tmp_path / "empty"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text((scorers / "llama" / "config.json").read_text())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="safetensors"):
        scorer_files(str(tmp_path / "pickled"))
    with pytest.raises(UserError, match="safetensors"):
        load_scorer(str(tmp_path / "pickled"), None, 32)
    with pytest.raises(UserError, match="takes 32768 tokens"):
        load_scorer(str(scorers / "llama"), None, 40_000)
    bare = tmp_path / "a" / "b"
    save_internlm2(CausalLM(Shape(8, 1, 8, 1, 1, 8, 8)), bare)
    with pytest.raises(UserError, match="tokenizer"):
        scorer_files(str(bare))
    shutil.copytree(scorers / "own", tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        scorer_files(str(tmp_path / "half"))


def test_a_scorer_is_known_by_its_weights_and_its_tokenizer(scorers: Path) -> None:
    names = {kind: {path.name for path in scorer_files(str(scorers / kind))} for kind in ("own", "llama")}
    assert names["own"] == {"shape.json", "model.safetensors", "vocabulary.json"}
    assert names["llama"] >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
