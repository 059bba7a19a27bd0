"""Weights in and out of vLLM, where it has them: in each worker of an engine.

vLLM mixes `EngineWorker` into its worker class (`worker_extension_cls`). An engine on one GPU has one worker, in the
engine's own process; one that spans several has a process for each.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from actors.ppo.channel import Channel
from actors.ppo.weights import Arrived, Held, WeightMessage, probe_columns
from ilm_ray.alignment.ppo.digest import digest_line, hash_of
from ilm_ray.model.shape import Shape

Cut = Literal["rows", "columns", "whole"]  # how tensor parallelism splits a matrix over an engine's workers
_CUT: dict[str, Cut] = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"), "rows"),
    **dict.fromkeys(("o_proj", "down_proj"), "columns"),
}


@dataclass(frozen=True)
class HeldPart:
    """A worker's part of a tensor: its share of the whole's hash."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    cut: Cut
    probed: bool
    hash: int


class EngineWorker:
    """Methods that an engine calls in all its workers, by name (`LLM.collective_rpc`)."""

    model_runner: Any
    device: torch.device
    rank: int
    reload_weights: Any
    _channel: Channel | None = None

    def divide_logits(self, temperature: float) -> None:
        """Divide logits before log-probabilities are taken: vLLM has them at temperature 1, or for the tokens that
        top_p left."""
        self.model_runner.get_model().logits_processor.scale = 1 / temperature

    def join_channel(self, place: tuple[str, int], first: int, members: int, deadline_s: float) -> None:
        """Become member `first` + this worker's rank of a channel, in the place of an earlier one."""
        if self._channel is not None:
            self._channel.close()
        self._channel = Channel(place, first + self.rank, members, self.device, deadline_s)

    def take_weights(self, message: WeightMessage, deadline_s: float, workers: int) -> Arrived:
        """Load all weights of a message; returns their digests."""
        arrived = Arrived(workers)
        tensors = arrived.watch(message.open(deadline_s, self._channel), self.device)
        self.reload_weights(weights_iterator=tensors, is_checkpoint_format=True)
        return arrived

    @torch.no_grad()
    def held_parts(self, shape: Shape, workers: int) -> dict[str, HeldPart]:
        """This worker's parts of the weights and biases, under LLaMA names."""
        kv = shape.kv_heads * shape.head_dim // workers
        fused = {  # vLLM's name -> LLaMA's names and rows
            "qkv_proj": {"q_proj": shape.heads * shape.head_dim // workers, "k_proj": kv, "v_proj": kv},
            "gate_up_proj": dict.fromkeys(("gate_proj", "up_proj"), shape.mlp_hidden // workers),
        }
        parts: dict[str, HeldPart] = {}
        for prefix, module in self.model_runner.get_model().named_modules():
            if not isinstance(getattr(module, "weight", None), nn.Parameter):
                continue
            path, _, last = prefix.rpartition(".")
            matrix, probed = _readable(module, last, self.rank, workers)
            rows = fused.get(last, {last: _rows_of(module, matrix)})
            for name, part in zip(rows, matrix[: sum(rows.values())].split(list(rows.values())), strict=True):
                parts[f"{path}.{name}.weight".removeprefix(".")] = _part(part, name, module, probed, self.rank, workers)
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                # vLLM's kernel for CPUs with AMX keeps biases in fp32.
                bias = module.bias.to(module.weight.dtype)
                rows = fused.get(last, {last: len(bias)})
                for name, part in zip(rows, bias.split(list(rows.values())), strict=True):
                    parts[f"{path}.{name}.bias"] = _bias(part, name, self.rank)
        return parts


def _rows_of(module: Any, matrix: Tensor) -> int:
    """Rows that are weights: vLLM pads the vocabulary, and each worker has a range of words."""
    words = getattr(module, "shard_indices", None)
    return len(matrix) if words is None else words.org_vocab_end_index - words.org_vocab_start_index


def _part(part: Tensor, name: str, module: Any, probed: bool, rank: int, workers: int) -> HeldPart:
    cut = _CUT.get(name, "whole")
    first, columns = (0, 0), None
    if cut == "rows":
        words = getattr(module, "shard_indices", None)
        first = (rank * len(part) if words is None else words.org_vocab_start_index, 0)
    elif cut == "columns":
        first, columns = (0, rank * part.shape[1]), workers * part.shape[1]
    return HeldPart(part.dtype, tuple(part.shape), cut, probed, int(hash_of(part, first, columns)))


def _bias(part: Tensor, name: str, rank: int) -> HeldPart:
    """Split with the rows of its matrix, else whole. A vector's hash is that of a matrix with one row."""
    cut: Cut = "rows" if _CUT.get(name) == "rows" else "whole"
    first, whole = ((0, rank * len(part)), None) if cut == "rows" else ((0, 0), None)
    return HeldPart(part.dtype, tuple(part.shape), cut, False, int(hash_of(part, first, whole)))


def _readable(module: Any, name: str, rank: int, workers: int) -> tuple[Tensor, bool]:
    """The matrix of a layer, or its `probe_columns`, and whether it is these."""
    if module.weight.numel():
        return module.weight, False
    # On a CPU linear layers keep their weights in a kernel's format; applied to unit vectors they give their columns.
    split = _CUT.get(name) == "columns"
    size = module.input_size // workers if split else module.input_size
    columns = probe_columns(size) if split else probe_columns(size, workers)
    units = torch.eye(size, dtype=module.weight.dtype)[columns]
    return module.cpu_linear(units, module.weight, None).T, True


def joined(workers: list[dict[str, HeldPart]]) -> Held:
    """The digests of whole tensors from the parts of all workers.

    A tensor that every worker has is that of the first where all agree, else its digest is none that was ever sent.
    """
    digests: dict[str, str] = {}
    for name, first in workers[0].items():
        parts = [worker[name] for worker in workers]
        shape, value = first.shape, sum(part.hash for part in parts)
        if first.cut == "rows":
            shape = (sum(part.shape[0] for part in parts), *shape[1:])
        elif first.cut == "columns":
            shape = (shape[0], sum(part.shape[1] for part in parts))
        else:
            value = first.hash
        alike = first.cut != "whole" or len({part.hash for part in parts}) == 1
        digests[name] = digest_line(first.dtype, shape, value) if alike else "differs between workers"
    return Held(digests, frozenset(name for name, part in workers[0].items() if part.probed))
