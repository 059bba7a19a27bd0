"""Every dense family against Transformers: logits, gradients, scores, and checkpoints that come back bit for bit."""

import json
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ilm_ray.base.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.huggingface import export_model, import_model, read_model
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel
from ilm_ray.model.names import from_llama
from ilm_ray.model.origin import ORIGIN, load_origin, model_files
from ilm_ray.model.weights import load_causal, load_scalar, save_internlm2
from tests.ask_vllm import NEW_TOKENS, ask_vllm
from tests.model.families import CASES, as_internlm3, checkpoint

PROMPTS = [[5, 9, 100, 31, 7], list(range(40, 90)), [8, 8, 45]]


def trained(model: Any, tokens: list[int]) -> torch.Tensor:
    """Transformers' logits of one document, with the gradients of its summed loss in the model's parameters."""
    logits = model(torch.tensor([tokens])).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="sum").backward()
    return logits.detach()


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_answers_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs, ours = checkpoint(case, tmp_path), read_model(tmp_path)
    assert isinstance(ours, CausalLM)
    for prompt in PROMPTS:
        logits = trained(theirs, prompt)
        torch.testing.assert_close(ours(Packed.of([prompt])), logits, atol=1e-5, rtol=1e-5)
        labels = torch.tensor([*prompt[1:], -100])
        ours(Packed.of([prompt]), labels, "sum").backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, expected in from_llama(gradients, ours.shape).items():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
    ((answer, _),) = generate(ours, PROMPTS[:1], 30, temperature=0.0)
    tokens = list(PROMPTS[0])
    for _ in answer:
        tokens.append(int(ours(Packed.of([tokens]))[-1].argmax()))
    if ours.shape.rope_scaling is None or ours.shape.rope_scaling.kind != "dynamic":  # whose cached keys stay turned
        assert answer == tokens[len(PROMPTS[0]) :]


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_in_fp64_logits_and_gradients_agree_to_1e_12(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Transformers computes norms, softmax and RoPE in fp32, whatever the model's type: here in fp64 too."""
    weights = checkpoint(case, tmp_path).state_dict()
    ours = read_model(tmp_path).double()
    config = AutoConfig.from_pretrained(tmp_path)
    for name in ("float", "float32"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    theirs.load_state_dict(weights)
    for prompt in PROMPTS:
        logits = trained(theirs, prompt)
        torch.testing.assert_close(ours(Packed.of([prompt])), logits, atol=1e-12, rtol=1e-12)
        ours(Packed.of([prompt]), torch.tensor([*prompt[1:], -100]), "sum").backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, expected in from_llama(gradients, ours.shape).items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours.get_parameter(name).grad, expected, atol=1e-12 * scale, rtol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["CausalLM", "SequenceClassification"])
def test_a_checkpoint_goes_in_and_comes_out_bit_for_bit(case: str, kind: str, tmp_path: Path) -> None:
    theirs = checkpoint(case, tmp_path / "in", kind, torch.bfloat16)
    import_model(tmp_path / "in", tmp_path / "ours")
    load = load_causal if kind == "CausalLM" else load_scalar
    origin = load_origin(tmp_path / "ours")
    export_model(load(tmp_path / "ours"), tmp_path / "out", origin=origin)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(after[name], before[name]) for name in before)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("in", "out")]
    for config in configs:
        for key in ("id2label", "label2id", "num_labels"):
            config.pop(key, None)
    assert configs[0] == configs[1]
    again = type(theirs).from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    prompt = torch.tensor(PROMPTS[:1])
    assert torch.equal(again(prompt).logits, type(theirs).from_pretrained(tmp_path / "in")(prompt).logits)
    if kind == "CausalLM":
        generation = [json.loads((tmp_path / name / "generation_config.json").read_text()) for name in ("in", "out")]
        assert generation[0] == generation[1]


@pytest.mark.long
def test_a_trained_model_keeps_what_its_base_said_and_says_what_training_changed(tmp_path: Path) -> None:
    checkpoint("Qwen2.5", tmp_path / "in", dtype=torch.bfloat16)
    path = tmp_path / "in" / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "code.Model"}, "a_key_of_theirs": [1]}
    path.write_text(json.dumps(config))
    import_model(tmp_path / "in", tmp_path / "base")
    base = load_causal(tmp_path / "base")
    model = CausalLM(base.shape.trained_in(128))
    model.load_state_dict(base.state_dict())
    save_internlm2(model, tmp_path / "trained", base=tmp_path / "base")
    assert {path.name for path in model_files(tmp_path / "trained")} == {"model.safetensors", "shape.json", ORIGIN}
    written = export_model(
        load_causal(tmp_path / "trained"), tmp_path / "out", origin=load_origin(tmp_path / "trained")
    )
    changed = {key for key in config.keys() | written.keys() if config.get(key) != written.get(key)}
    assert changed == {"auto_map", "max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters"}
    assert written["max_position_embeddings"] == 128
    assert read_model(tmp_path / "out").shape == model.shape


@pytest.mark.long
@pytest.mark.parametrize("case", ["LLaMA with biases", "Qwen2", "Qwen3"])
def test_scores_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs, ours = checkpoint(case, tmp_path, "SequenceClassification"), read_model(tmp_path)
    assert isinstance(ours, ScalarModel)
    for prompt in PROMPTS:
        score = theirs(torch.tensor([prompt])).logits[0, 0]
        torch.testing.assert_close(ours(Packed.of([prompt]))[-1], score, atol=1e-5, rtol=1e-5)


@pytest.mark.long
def test_internlm3_has_llama_s_names_and_its_own_switches(tmp_path: Path) -> None:
    theirs = checkpoint("LLaMA with biases", tmp_path / "in")
    as_internlm3(tmp_path / "in")
    model = import_model(tmp_path / "in", tmp_path / "ours")
    assert model.shape.family == "internlm3" and model.shape.qkv_bias and model.shape.out_bias and model.shape.mlp_bias
    ours = load_causal(tmp_path / "ours")
    expected = theirs(torch.tensor(PROMPTS[:1])).logits[0]
    torch.testing.assert_close(ours(Packed.of(PROMPTS[:1])), expected, atol=1e-5, rtol=1e-5)
    export_model(ours, tmp_path / "out", origin=load_origin(tmp_path / "ours"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(UserError, match="format llama cannot say all"):
        export_model(CausalLM(type(ours.shape)(**{**vars(ours.shape), "out_bias": False})), tmp_path / "x", "llama")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    checkpoint("LLaMA 2, Yi", folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "is a mixture of experts"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM is not known"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, "sliding window of 32 tokens binds"),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "use_sliding_window": True,
          "max_window_layers": 1}, "sliding window of 32 tokens binds"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}}, "scaled .longrope"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"architectures": ["LlamaForSequenceClassification"], "num_labels": 3}, "num_labels is 3"),
        ({"tie_word_embeddings": "yes"}, "neither true nor false"),
    ],
)  # fmt: skip
def test_what_our_model_cannot_be_is_refused_in_one_line(
    change: dict[str, Any], message: str, llama: Path, tmp_path: Path
) -> None:
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    (tmp_path / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=message) as refused:
        import_model(tmp_path, tmp_path / "out")
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.long
def test_windows_that_do_not_bind_are_read(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    for window in (None, 64):
        mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
        (tmp_path / "config.json").write_text(json.dumps(config | mistral))
        assert read_model(tmp_path).shape.family == "mistral"


@pytest.mark.long
def test_pickles_and_unknown_types_are_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickles, which can run code"):
        read_model(tmp_path)
    weights = load_file(llama / "model.safetensors")
    save_file({name: t.to(torch.float8_e4m3fn) for name, t in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is of type F8_E4M3"):
        read_model(tmp_path)


def test_others_may_read_exported_files(tmp_path: Path) -> None:
    from tests.model.test_huggingface import made

    export_model(made(CausalLM), tmp_path / "out")
    assert all(path.stat().st_mode & stat.S_IROTH for path in (tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("case", ["LLaMA 3.2, SmolLM", "Qwen2", "Qwen3"])
def test_vllm_continues_an_export_as_we_do_with_the_family_s_class(case: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32}  # as vLLM's kernel for CPUs wants them
    checkpoint(case, tmp_path / "in", **sizes)
    import_model(tmp_path / "in", tmp_path / "ours")
    model = load_causal(tmp_path / "ours")
    export_model(model, tmp_path / "out", origin=load_origin(tmp_path / "ours"))
    prompts = [prompt[:30] for prompt in PROMPTS]
    architectures, answers = ask_vllm(tmp_path / "out", prompts, "policy", tmp_path, most=64)
    assert architectures == [f"{CASES[case][0]}ForCausalLM"]
    assert answers == [ids for ids, _ in generate(model, prompts, NEW_TOKENS, temperature=0.0)]
