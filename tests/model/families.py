"""A random tiny checkpoint of every family, written by Transformers; InternLM's, which it has not, from LLaMA's."""

import json
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "head_dim": 12,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}
# name: Transformers' classes and what config.json says beside SIZES
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaMA 2, Yi": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "LLaMA 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "LLaMA 3.2, SmolLM": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "LLaMA with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
    "LLaMA, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "LLaMA, dynamic": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            "max_position_embeddings": 16,
        },
    ),
    "Mistral": ("Mistral", {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "Qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "Qwen2.5": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "Qwen3, YaRN": ("Qwen3", {"head_dim": 16, "rope_parameters": {**YARN, "attention_factor": 1.1, "beta_fast": 8.0}}),
}


def checkpoint(
    case: str, folder: Path, kind: str = "CausalLM", dtype: torch.dtype = torch.float32, **sizes: Any
) -> Any:
    """Write the case's checkpoint into `folder`; returns Transformers' model, in eval mode.

    kind: CausalLM or SequenceClassification, then with one label. sizes: in the place of those of the case.
    """
    import transformers

    prefix, more = CASES[case]
    labels = {} if kind == "CausalLM" else {"num_labels": 1}
    config = getattr(transformers, f"{prefix}Config")(**SIZES | more | sizes, **labels)
    config._attn_implementation = "eager"
    torch.manual_seed(len(case))
    model = getattr(transformers, f"{prefix}For{kind}")(config)
    with torch.no_grad():  # larger than at the start of training, and biases and norms that do something
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    return model


def as_internlm3(folder: Path) -> None:
    """Make a LLaMA checkpoint with biases InternLM3's, which has LLaMA's names and switches of its own."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["attention_bias"], config["mlp_bias"]
    config |= {"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3", "bias": True, "qkv_bias": True}
    path.write_text(json.dumps(config))
