"""Every attention kernel against the CPU in fp64 and against scaled_dot_product_attention, and its speed."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case, Figures, Where, rounded
from benchmarks.gpu.kernels import KERNELS, Attend, kernel
from ilm_ray.model.attention import attention_by_run

# Documents of one token, of a kernel's block and beside it, several of one length.
LENGTHS = (1, 7, 128, 129, 300, 300, 64)
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # those of 7b
TIMED = {"1 x 16384": (16_384,), "16 x 1024": (1024,) * 16}
# Relative errors (norm of the difference over the norm) of results and of gradients, which are rounded to the type.
BOUNDS = {torch.bfloat16: (0.01, 0.02), torch.float32: (1e-5, 1e-5)}
REPEATS = 10


def cases(where: Where) -> list[Case]:
    """One comparison a kernel, then its speed on one long document and on many short ones."""
    compared = [Case(f"{name} compared", functools.partial(compare, name, where)) for name in KERNELS]
    timed = [
        Case(f"{name} {documents}", functools.partial(timing, name, lengths, where))
        for documents, lengths in TIMED.items()
        for name in KERNELS
    ]
    return compared + timed


def compare(name: str, where: Where) -> Figures:
    """Relative errors against fp64 on the CPU and against SDPA on the device, and whether a second backward is equal.

    The exact result is that of the same rounded inputs. `repeats` is false where a backward adds atomically.
    """
    attend = kernel(name, where.device)
    dtype = torch.bfloat16 if where.on_gpu else torch.float32
    exact, exact_gradients = _reference(dtype, _head_dim(where))
    out, gradients = _results(attend, where, dtype)
    _, again = _results(attend, where, dtype)
    plain, plain_gradients = _results(kernel("sdpa", where.device), where, dtype)
    forward, backward = _error(out, exact), _largest_error(gradients, exact_gradients)
    bound, gradient_bound = BOUNDS[dtype]
    return {
        "forward_error": rounded(forward),
        "gradient_error": rounded(backward),
        "bounds": [bound, gradient_bound],
        "holds": forward <= bound and backward <= gradient_bound,
        "forward_from_sdpa": rounded(_error(out, plain)),
        "gradient_from_sdpa": rounded(_largest_error(gradients, plain_gradients)),
        "repeats": all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True)),
    }


def timing(name: str, lengths: Sequence[int], where: Where) -> Figures:
    """Median milliseconds of forward, and of forward and backward; TFLOP/s of both together, masked work not counted.

    A pair of a query and a key costs 4 * heads * head_dim operations forward and 2.5 times as many backward.
    """
    attend = kernel(name, where.device)
    if where.tiny:
        lengths = [8] * min(len(lengths), 2)
    dtype = torch.bfloat16 if where.on_gpu else torch.float32
    q, k, v = (t.to(where.device, dtype).requires_grad_() for t in _drawn(sum(lengths), _head_dim(where)))
    borders = _borders(lengths).to(where.device)
    weights = torch.ones_like(q)

    def forward() -> Tensor:
        return attend(q, k, v, borders, max(lengths))

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), weights)

    ahead, whole = _milliseconds(forward, where), _milliseconds(both, where)
    pairs = sum(n * (n + 1) / 2 for n in lengths)
    flops = 3.5 * 4 * HEADS * _head_dim(where) * pairs
    return {
        "forward_ms": rounded(ahead),
        "forward_and_backward_ms": rounded(whole),
        "tflops": rounded(flops / whole / 1e9),
    }


def _head_dim(where: Where) -> int:
    return 16 if where.tiny else HEAD_DIM


def _borders(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def _drawn(tokens: int, head_dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, heads, head_dim, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]


def _results(attend: Attend, where: Where, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """The result and the gradients of q, k, v, on the CPU in fp64."""
    inputs = [t.to(dtype).to(where.device).requires_grad_() for t in _drawn(sum(LENGTHS), _head_dim(where))]
    out = attend(*inputs, _borders(LENGTHS).to(where.device), max(LENGTHS))
    gradients = torch.autograd.grad(out, inputs, _weights(out.shape).to(out))
    return out.detach().cpu().double(), [gradient.cpu().double() for gradient in gradients]


@functools.cache
def _reference(dtype: torch.dtype, head_dim: int) -> tuple[Tensor, list[Tensor]]:
    inputs = [t.to(dtype).double().requires_grad_() for t in _drawn(sum(LENGTHS), head_dim)]
    out = attention_by_run(*inputs, _borders(LENGTHS), _borders(LENGTHS))
    return out.detach(), list(torch.autograd.grad(out, inputs, _weights(out.shape).to(dtype).double()))


def _weights(shape: torch.Size) -> Tensor:
    """The gradient that comes in: as everything in bf16 it is rounded once, for all."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


def _error(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())


def _largest_error(got: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(_error(a, b) for a, b in zip(got, exact, strict=True))


def _milliseconds(work: Callable[[], object], where: Where) -> float:
    """Median of single calls, after three that compile and warm up."""
    taken = []
    for number in range(3 + (2 if where.tiny else REPEATS)):
        started = time.perf_counter()
        work()
        if where.on_gpu:
            torch.cuda.synchronize()
        if number >= 3:
            taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)
