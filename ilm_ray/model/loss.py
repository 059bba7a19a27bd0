"""Cross-entropy without the whole matrix of logits: 92,544 words at 4k tokens in fp32 are 1.5 GB, twice."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORE = -100


def logits_of(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) of hidden states (tokens, hidden).

    Where the head's matrix is split over its vocabulary (a DTensor), so are they; every rank gives all of `hidden`.
    """
    if isinstance(weight, DTensor):
        hidden = DTensor.from_local(hidden, weight.device_mesh, [Replicate()], run_check=False)
    return F.linear(hidden, weight)


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Cross-entropy of every token, at least fp32 (tokens); 0 where the label is IGNORE.

    hidden: (tokens, hidden), weight: (vocabulary, hidden), labels: (tokens). Only `chunk` rows of logits exist at a
    time, in backward too, where they are computed again.
    """

    def rows(h: Tensor, y: Tensor) -> Tensor:
        logits = logits_of(h, weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")

    if not torch.is_grad_enabled() or len(labels) <= chunk:
        return torch.cat([rows(h, y) for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)])
    return torch.cat(
        [
            checkpoint(rows, h, y, use_reentrant=False)
            for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)
        ]
    )


def summed_loss(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """The sum of `token_losses`, a scalar. No logits are computed twice: every chunk leaves its gradient at once.

    This is right because a sum has one gradient for all tokens, by which the backward multiplies (the idea of
    Liger-Kernel's fused linear cross-entropy, arXiv 2410.10989). Until then a gradient of the head's size is kept, in
    fp32: in bfloat16 the sum over chunks loses the small part that each of them adds. `weight` may be split over its
    vocabulary (a DTensor); every rank then gives all of `hidden` and gets the whole sum.
    """
    group, first = None, 0
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        group, weight = mesh.get_group(), weight.to_local()
        first = mesh.get_local_rank() * len(weight)
    return _SummedLoss.apply(hidden, weight, labels, chunk, first, group)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, first: int, group: ProcessGroup | None
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
        # Two matrices of a chunk's size are all that is ever needed.
        logits_of, scores_of = (
            hidden.new_empty(min(chunk, len(labels)), len(weight), dtype=t) for t in (hidden.dtype, exact)
        )
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            h, y = hidden[rows], labels[rows]
            logits, scores = logits_of[: len(y)], scores_of[: len(y)]
            torch.mm(h, weight.t(), out=logits)
            counted = y != IGNORE
            local = (y - first).clamp(0, len(weight) - 1)[:, None]
            here = (counted & (y >= first) & (y < first + len(weight))).to(exact)
            # logits minus the logarithm of their summed exponentials, of this rank's words
            first_logit = logits[:, 0].to(exact)
            torch.log_softmax(logits, -1, dtype=exact, out=scores)
            log_sum = first_logit - scores[:, 0]
            label_logit = (scores.gather(1, local)[:, 0] + log_sum) * here  # the label's logit, where it is this rank's
            if group is not None:
                log_sum_here = log_sum
                log_sum, label_logit = _over_ranks(log_sum, label_logit, group)
                scores += (log_sum_here - log_sum)[:, None]
            total += ((log_sum - label_logit) * counted).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            scores.exp_().scatter_add_(1, local, -here[:, None])  # the gradient of the logits, if all were counted
            gradient = scores if scores.dtype == logits.dtype else logits.copy_(scores)
            seen = counted[:, None].to(hidden.dtype)
            if grad_weight is not None:
                _add_product(grad_weight, gradient.t(), h * seen)
            if grad_hidden is not None:
                torch.mm(gradient, weight, out=grad_hidden[rows]).mul_(seen)
        if grad_hidden is not None and group is not None:
            dist.all_reduce(grad_hidden, group=group)
        ctx.gradients, ctx.dtype = (grad_hidden, grad_weight), weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a summed loss goes backward once: its gradients were scaled in place")
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        for gradient in (grad_hidden, grad_weight):
            if gradient is not None:
                gradient.mul_(scale.to(gradient.dtype))
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the type of `total`, which may be fp32 where theirs is a half precision."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:  # torch mixes types on CUDA alone
        total.addmm_(left.to(total.dtype), right.to(total.dtype))


def _over_ranks(log_sum: Tensor, label_logit: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Combine the ranks' words: log of all summed exponentials (rows), the label's logit (rows)."""
    mine = torch.stack([log_sum, label_logit])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    sums, logits = torch.stack(parts).unbind(1)
    return sums.logsumexp(0), logits.sum(0)
