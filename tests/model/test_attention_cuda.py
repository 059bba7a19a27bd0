"""The attention seam on a GPU: the varlen kernel against scaled_dot_product_attention, document by document."""

import itertools

import pytest
import torch

from ilm_ray.model.attention import attention, attention_by_run

LENGTHS = (1, 7, 128, 129, 300, 300, 64)
HEADS, KV_HEADS = 8, 2


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_varlen_kernel_gives_what_sdpa_gives_for_each_document(
    cuda: torch.device, dtype: torch.dtype, head_dim: int
) -> None:
    generator = torch.Generator(cuda).manual_seed(0)
    borders = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32, device=cuda)

    def drawn(heads: int) -> torch.Tensor:
        values = torch.randn(sum(LENGTHS), heads, head_dim, generator=generator, device=cuda)
        return values.to(dtype).requires_grad_()

    q, k, v = drawn(HEADS), drawn(KV_HEADS), drawn(KV_HEADS)
    weights = torch.randn(q.shape, generator=generator, device=cuda)
    got = attention(q, k, v, borders, max(LENGTHS))
    gradients = torch.autograd.grad((got.float() * weights).sum(), (q, k, v))
    # The reference works in fp32 on the same rounded values.
    exact = [tensor.detach().float().requires_grad_() for tensor in (q, k, v)]
    expected = attention_by_run(*exact, borders, borders)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    bound = 16 * torch.finfo(dtype).eps  # values and gradients are of size 1; they are rounded, as is the softmax
    torch.testing.assert_close(got.float(), expected, atol=bound, rtol=bound)
    for given, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(given.float(), wanted, atol=bound * float(wanted.abs().max()), rtol=bound)
