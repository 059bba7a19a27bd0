"""SmolLM2-135M-Instruct, a real model: in, its answers, and out again. Slow: it takes a gigabyte and a minute."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.opening import bring_tokenizer
from ilm_ray.model.generate import generate
from ilm_ray.model.huggingface import export_model, import_model
from ilm_ray.model.origin import load_origin
from ilm_ray.model.weights import load_causal

pytestmark = pytest.mark.slow

QUESTIONS = ["What is the capital of France?", "Write a haiku about the sea.", "中国的首都是哪里？", "2 + 2 = ?"]
TEXTS = [
    "Numbers: 12345 and 3.14",
    "  two  spaces\n\n\tand a tab",
    "naïve café, Zürich — 北京 😀",
    "<|im_start|>no turn",
]
TOKENS = 24


@pytest.fixture(scope="module")
def ours(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    import_model(real_model, folder)
    return folder


def test_what_comes_in_goes_out_bit_for_bit(real_model: Path, ours: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    export_model(load_causal(ours), tmp_path, origin=load_origin(ours))
    before, after = (load_file(folder / "model.safetensors") for folder in (real_model, tmp_path))
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (real_model, tmp_path)]
    assert {key: value for key, value in configs[1].items() if configs[0].get(key) != value} == {}


def test_it_answers_as_in_transformers(real_model: Path, ours: Path, tmp_path: Path) -> None:
    import transformers

    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32)
    reader: Any = transformers.AutoTokenizer.from_pretrained(real_model)
    tokenizer = bring_tokenizer(real_model, tmp_path / "tokenizer").tokenizer
    model = load_causal(ours)
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompts.append(encode_chat(tokenizer, messages, generation_prompt=True).ids)
        assert prompts[-1] == reader.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    for text in TEXTS:
        wanted = reader(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text) == wanted
    answers = [ids for ids, _ in generate(model, prompts, TOKENS, temperature=0.0, stop_ids=[tokenizer.turn_end_id])]
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = theirs.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[0].tolist()
        assert whole[len(prompt) :] == answer
    assert "Paris" in tokenizer.decode(answers[0])
