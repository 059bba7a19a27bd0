"""A random Qwen2 of a few thousand weights as its makers would publish it: weights, tokenizer, chat template."""

import functools
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.data.tokenizer.brought import QWEN, byte_level, publish


@functools.cache
def _vocabulary() -> str:
    """One for all: the training breaks ties at random."""
    return byte_level().to_str()


def toy_model(folder: Path, kind: str = "CausalLM", seed: int = 0, template: str | None = QWEN, **more: Any) -> Any:
    """Write the folder; returns Transformers' model. kind: CausalLM, or SequenceClassification with one label."""
    import transformers

    made = Tokenizer.from_str(_vocabulary())
    publish(folder, made, template)
    end = made.token_to_id("</s>")
    sizes: dict[str, Any] = {
        "vocab_size": made.get_vocab_size(), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": end,
        "bos_token_id": None, "pad_token_id": end, "tie_word_embeddings": True,
    }  # fmt: skip
    labels = {} if kind == "CausalLM" else {"num_labels": 1}
    config = transformers.Qwen2Config(**sizes | more, **labels)
    torch.manual_seed(seed)
    model = getattr(transformers, f"Qwen2For{kind}")(config).eval()
    with torch.no_grad():  # biases and a reward head that do something
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model
