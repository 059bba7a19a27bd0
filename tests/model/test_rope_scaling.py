"""RoPE beyond the window that a model was trained on: dynamic NTK scaling against Transformers' own."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.huggingface import export_model, read_model
from ilm_ray.model.internlm2 import CausalLM, Documents, Packed, Shape, initialize
from ilm_ray.model.rotary import rotary_tables
from ilm_ray.model.shape import RopeScaling
from ilm_ray.model.weights import load_shape, save_internlm2
from ilm_ray.training.parallel.context import slice_of

WINDOW = 32
PLAIN = Shape(
    vocab_size=160,
    layers=3,
    hidden=96,
    kv_heads=2,
    queries_per_kv=3,
    head_dim=16,
    mlp_hidden=64,
    rope_base=1000.0,
    context=WINDOW,
)
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def scaled(factor: float = 2.0) -> Shape:
    return replace(PLAIN, rope_scaling=RopeScaling("dynamic", factor, WINDOW))


def made(shape: Shape, larger: float = 4.0) -> CausalLM:
    model = CausalLM(shape)
    initialize(model, 0)
    with torch.no_grad():  # larger weights than at the start of training, so that a wrong rotation shows
        for parameter in model.parameters():
            parameter.mul_(larger)
    return model.eval()


def document(length: int) -> list[int]:
    return torch.randint(3, 160, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.long
@pytest.mark.parametrize("factor", [1.0, 2.0, 3.5])
def test_frequencies_are_those_of_transformers(factor: float) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    shape = replace(scaled(factor), rope_base=1e6, head_dim=128)
    theirs = LlamaConfig(
        head_dim=128,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": factor},
    )
    for length in (5, WINDOW, WINDOW + 1, 50, 200, 5000):
        expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](theirs, torch.device("cpu"), seq_len=torch.tensor(length))
        # At position 1 the angles are the frequencies, and none is above 1.
        _, sines = rotary_tables(torch.ones(1), shape, torch.float64, torch.tensor([length]))
        torch.testing.assert_close(sines.arcsin()[0].float(), expected, rtol=1e-6, atol=0)


def test_within_the_window_nothing_changes() -> None:
    documents = [document(n) for n in (WINDOW, 7, 1)]
    model, plain = made(scaled()), made(PLAIN)
    assert torch.equal(model(Packed.of(documents)), plain(Packed.of(documents)))
    assert generate(model, documents[1:], 6, seed=3) == generate(plain, documents[1:], 6, seed=3)


def test_packed_documents_are_scaled_each_by_its_own_length() -> None:
    documents = [document(n) for n in (100, 7, WINDOW, WINDOW + 1, 60)]
    model = made(scaled()).double()
    alone = torch.cat([model(Packed.of([d])) for d in documents])
    torch.testing.assert_close(model(Packed.of(documents)), alone, atol=1e-9, rtol=1e-9)


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_logits_and_cached_answers_are_those_of_transformers(factor: float, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model, plain = (made(shape, 2.0).double() for shape in (scaled(factor), PLAIN))
    export_model(model, tmp_path, "llama", torch.float64, IDS)
    for length in (9, WINDOW, WINDOW + 1, 100):
        llama = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)  # anew: it remembers lengths
        prompt = document(length)
        theirs = llama(torch.tensor([prompt])).logits[0]
        ours, unscaled = (m(Packed.of([prompt])) for m in (model, plain))
        # Its angles are of fp32, whatever the model is of.
        print(length, *(float((logits - theirs).norm() / theirs.norm()) for logits in (ours, unscaled)))
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()
        assert length <= WINDOW or (unscaled - theirs).norm() > 0.001 * theirs.norm()
        llama = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
        answer = llama.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = answer.sequences[0, length:]
        expected = torch.stack(answer.logits)[:, 0].log_softmax(-1).gather(1, new[:, None])[:, 0]
        ((ids, logprobs),) = generate(model, [prompt], 12, temperature=0.0)
        assert ids == new.tolist()
        torch.testing.assert_close(torch.tensor(logprobs), expected.float(), atol=1e-5, rtol=0)


def test_each_prompt_of_a_batch_is_scaled_by_its_own_length() -> None:
    prompts, model = [document(60), document(9), document(WINDOW - 3)], made(scaled())
    together = generate(model, prompts, 8, temperature=0.0)
    for prompt, (ids, logprobs) in zip(prompts, together, strict=True):
        ((alone, its_logprobs),) = generate(model, [prompt], 8, temperature=0.0)
        assert ids == alone and logprobs == pytest.approx(its_logprobs, abs=1e-5)


def test_slices_of_rows_are_refused_beyond_the_window_and_allowed_within() -> None:
    for length, fails in ((WINDOW, False), (WINDOW + 2, True)):
        part, _ = slice_of(Packed.of([document(length)]), None, 1, 2, "ulysses")
        if fails:
            with pytest.raises(UserError, match=rf"layout\.cp=1 or a context of at most {WINDOW}"):
                Documents.of(part, scaled(), torch.float32)
        else:
            Documents.of(part, scaled(), torch.float32)


@pytest.mark.parametrize("weight_format", ["internlm2", "llama"])
def test_scaling_and_context_are_kept_from_import_to_export(weight_format: str, tmp_path: Path) -> None:
    """A config.json in the words of the released models, in and out."""
    export_model(made(PLAIN), tmp_path / "in", weight_format, torch.float32, IDS)
    path = tmp_path / "in" / "config.json"
    released = json.loads(path.read_text()) | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
    del released["rope_parameters"]
    path.write_text(json.dumps(released))
    model = read_model(tmp_path / "in")
    shape = replace(scaled(), family=weight_format)
    assert model.shape == shape
    save_internlm2(model, tmp_path / "ours")
    assert load_shape(tmp_path / "ours") == shape
    export_model(model, tmp_path / "out", weight_format, torch.float32, IDS)
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["rope_scaling"] == released["rope_scaling"] and exported["max_position_embeddings"] == WINDOW
    assert exported["rope_theta"] == released["rope_theta"]
    assert read_model(tmp_path / "out").shape == shape


def test_folders_from_before_are_read_as_they_were(tmp_path: Path) -> None:
    old: dict[str, Any] = asdict(PLAIN)
    del old["context"], old["rope_scaling"]
    (tmp_path / "shape.json").write_text(json.dumps(old))
    assert load_shape(tmp_path) == replace(PLAIN, context=32_768)
    (tmp_path / "shape.json").write_text("[1]")
    with pytest.raises(UserError, match=r"shape\.json"):
        load_shape(tmp_path)


def test_a_training_in_shorter_windows_takes_nothing_away() -> None:
    assert PLAIN.trained_in(WINDOW // 2).context == WINDOW and PLAIN.trained_in(2 * WINDOW).context == 2 * WINDOW
    further = scaled().trained_in(4 * WINDOW)  # scaled positions were trained: what is scaled begins where it did
    assert (further.context, further.window) == (4 * WINDOW, WINDOW)
