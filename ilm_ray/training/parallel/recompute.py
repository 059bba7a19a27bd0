"""Activation checkpointing (arXiv 1604.06174) and compilation of blocks."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ilm_ray.model.internlm2 import CausalLM, ScalarModel

_aten, _comm = torch.ops.aten, torch.ops._c10d_functional
# Operators that are expensive to compute twice: matrix products and sums over ranks.
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_mm.default,
    _comm.all_reduce.default,
    _comm.reduce_scatter_tensor.default,
}
_ATTENTION = ("ilm_ray", "flash_attn", "torch_attn")  # libraries of operators that are nothing but attention


def recompute_blocks(model: CausalLM | ScalarModel, how: Literal["none", "selective", "full"]) -> None:
    """Let the backward compute again, in place, the activations that blocks would keep for it.

    full: all of it, from the block's input. selective: norms, rotation, SwiGLU; kept are the outputs of matrix products
    and of attention (Megatron-LM's selective recomputation, arXiv 2205.05198, the other way round: there attention was
    the part that is large and cheap, which it is no longer where scores are never stored).
    """
    if how == "none":
        return
    context = functools.partial(create_selective_checkpoint_contexts, _keep) if how == "selective" else None
    for block in model.model.layers.values():
        _replace_forward(block, lambda forward: _checkpointed(forward, context))


def compile_blocks(model: CausalLM | ScalarModel) -> None:
    """torch.compile each block on its own, in place: all have the same code, so it is compiled once.

    A second and last time at the second number of tokens, which makes sizes variables; lengths of documents are none.
    """
    for block in model.model.layers.values():
        _replace_forward(block, _compiled)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward)

    def forward_compiled(x: Tensor, *others: Any) -> Any:
        # With tp the embedding's sum over ranks is still under way. As it is, torch 2.13 gives a wrong gradient of it,
        # without an error; any operation makes it a plain tensor.
        return compiled(x.clone() if isinstance(x, AsyncCollectiveTensor) else x, *others)

    return forward_compiled


def _replace_forward(block: nn.Module, change: Callable[[Any], Any]) -> None:
    # The forward, not the module: hooks of FSDP2 stay outside, names of parameters stay what they are.
    block.forward = change(block.forward)


def _checkpointed(forward: Callable[..., Any], context: Callable[[], Any] | None) -> Callable[..., Any]:
    # Nothing in a block draws random numbers, so none need be restored.
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if context is not None:
        settings["context_fn"] = context

    def forward_again(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, **settings)

    return forward_again


def _keep(_context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    kept = operator in _KEPT or getattr(operator, "namespace", "") in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
