"""Tensor parallelism (Megatron-LM, arXiv 1909.08053), with sequence parallelism between (arXiv 2205.05198).

`wqkv` is interleaved per KV group, so a plain split of its rows gives each rank whole groups.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ilm_ray.model.internlm2 import CausalLM, Head, ScalarModel
from ilm_ray.training.parallel.stages import Passed


def split_tensors(model: CausalLM | ScalarModel, mesh: DeviceMesh, sequence_parallel: bool) -> None:
    """Split attention heads, MLP, embedding and vocabulary of `model` over `mesh`, in place.

    Call the model and its backward inside `loss_parallel()`: the logits stay split over the vocabulary.
    """
    between = Shard(0) if sequence_parallel else Replicate()  # rows of what lies between two splits
    plan: dict[str, ParallelStyle] = {}
    if isinstance(model.model.tok_embeddings, nn.Embedding):  # absent from the later stages of a pipeline
        plan["model.tok_embeddings"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
    if sequence_parallel and isinstance(model.model.norm, nn.RMSNorm):
        plan["model.norm"] = SequenceParallel(sequence_dim=0)
        # The head takes all rows, so that labels and chunks are the same on every rank.
        plan["model"] = PrepareModuleOutput(output_layouts=between, desired_output_layouts=Replicate())
    if isinstance(model, CausalLM) and isinstance(model.output, Head) and not model.shape.tied:
        plan["output"] = _SplitVocabulary()
    if isinstance(model.model.tok_embeddings, Passed) and model.model.tok_embeddings.weight is not None:
        plan["model.tok_embeddings"] = _SplitVocabulary()  # for the tied head of a pipeline's last stage
    if plan:
        parallelize_module(model, mesh, plan)
    if isinstance(model.model.tok_embeddings, nn.Embedding):
        model.model.tok_embeddings.register_forward_hook(_copied)
    for block in model.model.layers.values():
        parallelize_module(block, mesh, _block_plan(sequence_parallel, model.shape.qk_norm))
    model.register_forward_hook(_whole)


def _block_plan(sequence_parallel: bool, qk_norm: bool) -> dict[str, ParallelStyle]:
    between = Shard(0) if sequence_parallel else Replicate()
    plan: dict[str, ParallelStyle] = {
        "attention.wqkv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(output_layouts=between),
        "feed_forward.w1": ColwiseParallel(),
        "feed_forward.w3": ColwiseParallel(),
        "feed_forward.w2": RowwiseParallel(output_layouts=between),
    }
    if qk_norm:  # of each rank's own heads: (rows, groups, heads of a group, head_dim) split by groups
        plan |= dict.fromkeys(("attention.q_norm", "attention.k_norm"), _NormOfHeads())
    if sequence_parallel:
        plan |= {
            "attention_norm": SequenceParallel(sequence_dim=0),
            "attention": PrepareModuleInput(input_layouts=(Shard(0), None), desired_input_layouts=(Replicate(), None)),
            "ffn_norm": SequenceParallel(sequence_dim=0),
            "feed_forward": PrepareModuleInput(input_layouts=(Shard(0),), desired_input_layouts=(Replicate(),)),
        }
    return plan


class _NormOfHeads(SequenceParallel):
    """A norm with whole weights over parts of the heads: its weights' gradients are added up over the ranks."""

    def __init__(self) -> None:
        super().__init__(sequence_dim=1, use_local_output=True)


class _SplitVocabulary(ParallelStyle):
    """Rows of the head's matrix over the ranks; `model.loss` computes with them. Its inputs and outputs stay."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module.weight, nn.Parameter)
        weight = distribute_tensor(module.weight, device_mesh, [Shard(0)])
        module.register_parameter("weight", nn.Parameter(weight))
        return module


def _copied(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """FSDP2 puts hooks on the embedding's output and warns of views."""
    return output.clone()


def _whole(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Losses and logits leave the model as plain tensors; copied, for FSDP2 puts hooks on them and warns of views."""
    return output.full_tensor().clone() if isinstance(output, DTensor) else output
