"""Language models that score: one of ours, or any causal model of Transformers (safetensors, no remote code)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.opening import holds_tokenizer, open_tokenizer, tokenizer_files
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.weights import load_causal


class ScoringModel(Protocol):
    """Text to ids without special tokens, and ids to log-probabilities (`LogProbs` in `perplexity.py`)."""

    def encode(self, text: str) -> np.ndarray: ...
    def log_probs(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def decode(self, ids: np.ndarray) -> str: ...


class OwnModel:
    """InternLM2 as our training leaves it: sequences are packed, and never see each other."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.tokenizer, self.device = open_tokenizer(tokenizer), _device()
        self.model = load_causal(folder).to(self.device).eval().requires_grad_(False)
        rows, size = self.model.shape.vocab_size, self.tokenizer.vocab_size
        if rows < size or (rows > size and isinstance(self.tokenizer, Tokenizer)):  # other models have spare rows
            raise UserError(
                f"long_text.scorer={folder} knows {rows} tokens and {tokenizer} has "
                f"{size}; give a model with the tokenizer that it was trained with"
            )

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text), np.int64)

    def decode(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids.tolist())

    def log_probs(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        batch = packed_from_arrays([s[:-1] for s in sequences]).to(self.device)
        labels = torch.from_numpy(np.concatenate([s[1:] for s in sequences])).to(self.device)
        with torch.no_grad():
            values = -self.model(batch, labels).cpu().numpy()
        return np.split(values, np.cumsum([len(s) - 1 for s in sequences])[:-1])


class HuggingFaceModel:
    """A causal language model by folder or hub id, with its own tokenizer."""

    def __init__(self, name: str, longest: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = _device()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"long_text.scorer={name} is no causal language model with safetensors and a tokenizer "
                f"({' '.join(str(error).split())[:200]}); give a folder or hub id of one"
            ) from None
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and room < longest:
            raise UserError(
                f"long_text.scorer={name} takes {room} tokens and a pair of segments has {longest}; lower "
                "long_text.segment_tokens or give another model"
            )
        self.model: Any = model.to(self.device).eval().requires_grad_(False)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)

    def decode(self, ids: np.ndarray) -> str:
        return str(self.tokenizer.decode(ids.tolist()))

    def log_probs(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        longest = max(map(len, sequences))
        ids = torch.stack([F.pad(torch.from_numpy(s), (0, longest - len(s))) for s in sequences]).to(self.device)
        mask = torch.stack([torch.arange(longest) < len(s) for s in sequences]).to(self.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()
        values = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).cpu().numpy()
        return [row[: len(s) - 1] for row, s in zip(values, sequences, strict=True)]


def load_scorer(name: str, tokenizer: Path | None, longest: int) -> ScoringModel:
    """Open a model of ours (a folder with `shape.json`) or one of Transformers. Raises UserError.

    tokenizer: of a model of ours; None: it lies in the model's folder, or where a run keeps it. longest: tokens of the
    longest sequence that will come.
    """
    folder = Path(name)
    if (folder / "shape.json").is_file():
        return OwnModel(folder, tokenizer or own_tokenizer(folder))
    return HuggingFaceModel(name, longest)


def own_tokenizer(folder: Path) -> Path:
    """The tokenizer of a model folder of ours: in it, or `<run>/tokenizer` for `<run>/<stage>/model`."""
    places = (folder, folder.parent.parent / "tokenizer")
    holder = next((place for place in places if holds_tokenizer(place)), None)
    if holder is None:
        raise UserError(
            f"long_text.scorer={folder} has no tokenizer (it is neither in it nor in {places[1]}); put it there"
        )
    return holder


def scorer_files(name: str) -> list[Path]:
    """The files of a scorer that is a folder; none for a hub id. Raises UserError where it is no model."""
    folder = Path(name)
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or folder.exists():
            raise UserError(f"long_text.scorer={name} is no folder; give that of a model, or a Hugging Face hub id")
        return []
    if (folder / "shape.json").is_file():
        files = [folder / "shape.json", folder / "model.safetensors", *tokenizer_files(own_tokenizer(folder))]
        if not files[1].is_file():
            raise UserError(f"long_text.scorer={name} holds no {files[1].name}; give the folder of a whole model")
        return files
    weights = sorted(folder.glob("*.safetensors"))
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"long_text.scorer={name}: config.json cannot be read ({error}); give a model's folder"
        ) from None
    if not weights:
        raise UserError(f"long_text.scorer={name} holds no *.safetensors; convert the model's weights to safetensors")
    about = [path for kind in ("json", "model", "txt") for path in sorted(folder.glob(f"*.{kind}"))]
    return [*weights, *about]  # the tokenizer is among the latter


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
