"""The model against Transformers' LLaMA, against each document alone, and round trips of its weights."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ilm_ray.model.attention import attention, attention_by_run
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, Documents, Packed, Shape, initialize
from ilm_ray.model.loss import IGNORE, summed_loss
from ilm_ray.model.names import from_llama, to_llama
from ilm_ray.model.pointwise import RMSNorm, _RMSNorm, swiglu
from ilm_ray.model.rotary import rotary_tables, split_rotated
from ilm_ray.model.weights import full_weights, load_causal, read_about, save_internlm2

SHAPE = Shape(
    vocab_size=160, layers=3, hidden=96, kv_heads=2, queries_per_kv=3, head_dim=16, mlp_hidden=64, rope_base=1000.0
)


@pytest.fixture()
def model() -> CausalLM:
    model = CausalLM(SHAPE, loss_chunk=5)
    initialize(model, seed=0)
    with torch.no_grad():  # larger weights than at the start of training, so that a wrong rotation shows
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, SHAPE.vocab_size, (n,), generator=generator).tolist() for n in (7, 1, 12, 4)]


def test_logits_equal_transformers_llama(model: CausalLM, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    export_model(model, tmp_path, "llama", torch.float32)
    llama = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for document in documents():
        ours = model(Packed.of([document]))
        theirs = llama(torch.tensor([document])).logits[0]
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_packed_documents_equal_each_document_alone(model: CausalLM) -> None:
    packed = model(Packed.of(documents()))
    alone = torch.cat([model(Packed.of([d])) for d in documents()])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_attention_equals_a_dense_mask() -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = [5, 3, 9]
    q, k, v = (torch.randn(17, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    cu = torch.tensor([0, 5, 8, 17], dtype=torch.int32)
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    mask = (document[:, None] == document[None, :]) & torch.ones(17, 17, dtype=torch.bool).tril()
    dense = F.scaled_dot_product_attention(
        *(t.transpose(0, 1)[None] for t in (q, k, v)), attn_mask=mask, enable_gqa=True
    )[0].transpose(0, 1)
    ours = attention(q, k, v, cu, 9)
    torch.testing.assert_close(ours, dense, atol=1e-6, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((dense * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_chunked_loss_equals_cross_entropy_and_its_gradient(model: CausalLM) -> None:
    model = copy.deepcopy(model).double()
    batch = Packed.of(documents())
    labels = torch.randint(0, SHAPE.vocab_size, (len(batch.tokens),), generator=torch.Generator().manual_seed(3))
    labels[::4] = IGNORE
    whole = F.cross_entropy(model(batch), labels, ignore_index=IGNORE, reduction="sum")
    expected = torch.autograd.grad(whole, list(model.parameters()))
    chunked = model(batch, labels)
    assert (chunked[::4] == 0).all()
    for loss in (chunked.sum(), model(batch, labels, "sum")):
        torch.testing.assert_close(loss, whole)
        for a, b in zip(torch.autograd.grad(3 * loss, list(model.parameters())), expected, strict=True):
            torch.testing.assert_close(a, 3 * b, atol=1e-9, rtol=1e-9)


def test_summed_loss_goes_backward_once_and_survives_extreme_logits() -> None:
    head = torch.nn.Linear(4, 6, bias=False, dtype=torch.float64)
    hidden = (1e4 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 1, IGNORE, 3, 4, 5, IGNORE])
    loss = summed_loss(hidden, head.weight, labels, chunk=3)
    expected = F.cross_entropy(head(hidden), labels, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, (hidden, head.weight), retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad(expected, (hidden, head.weight)), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="goes backward once"):
        loss.backward()


def test_the_head_s_gradient_in_half_precision_is_as_exact_in_many_chunks_as_in_few() -> None:
    generator = torch.Generator().manual_seed(9)
    hidden, weight = (torch.randn(n, 32, generator=generator).bfloat16() for n in (1024, 50))
    labels = torch.randint(0, 50, (1024,), generator=generator)
    exact = weight.double().requires_grad_()
    F.cross_entropy(F.linear(hidden.double(), exact), labels, reduction="sum").backward()
    assert exact.grad is not None

    def error(chunk: int) -> float:
        ours = weight.clone().requires_grad_()
        summed_loss(hidden, ours, labels, chunk).backward()
        assert ours.grad is not None and exact.grad is not None and ours.grad.dtype == torch.bfloat16
        return float((ours.grad.double() - exact.grad).norm() / exact.grad.norm())

    few, many = error(512), error(16)
    assert many < 1.05 * few
    # Logits and their gradient are rounded to 8 bits whatever the chunk: a sum in bfloat16 would add much to that.
    assert few < 5 * 2**-9


def test_norm_and_swiglu_have_the_gradients_that_differences_say() -> None:
    generator = torch.Generator().manual_seed(6)
    x, y = (torch.randn(5, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    norm = RMSNorm(8, eps=1e-3, dtype=torch.float64)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-3))
    assert torch.autograd.gradcheck(lambda t, w: _RMSNorm.apply(t, w, 1e-3), (x, norm.weight))
    torch.testing.assert_close(swiglu(x, y), F.silu(x) * y)
    assert torch.autograd.gradcheck(swiglu, (x, y))


def test_rotation_has_the_gradients_that_differences_say() -> None:
    qkv = torch.randn(5, 2, 4, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True)
    shape = Shape(1, 1, 12, 1, 2, head_dim=6, mlp_hidden=1, rope_base=100.0)
    tables = rotary_tables(torch.tensor([0, 1, 2, 0, 1]), shape, torch.float64)
    assert torch.autograd.gradcheck(lambda t: split_rotated(t, *tables), qkv)


def test_attention_on_a_cpu_equals_torch_s_own_with_more_keys_than_queries() -> None:
    generator = torch.Generator().manual_seed(8)
    q, k, v = (
        torch.randn(n, heads, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for n, heads in ((9, 4), (16, 2), (16, 2))
    )
    # Two alike, one with more keys, one without queries of this rank's, one alone.
    borders, borders_k = (torch.tensor(b, dtype=torch.int32) for b in ([0, 2, 4, 7, 7, 9], [0, 2, 4, 11, 12, 16]))
    ours, theirs = attention(q, k, v, borders, 7, borders_k), attention_by_run(q, k, v, borders, borders_k)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_weights_survive_both_formats_bit_for_bit(model: CausalLM, tmp_path: Path) -> None:
    weights = full_weights(model)
    back = from_llama(to_llama(weights, SHAPE), SHAPE)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    save_internlm2(model, tmp_path)
    loaded = load_causal(tmp_path)
    assert loaded.shape == SHAPE
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_the_same_model_is_the_same_bytes(model: CausalLM, tmp_path: Path) -> None:
    about = {name: name for name in ("conditions", "a", "b", "ä")}
    for number in range(5):
        save_internlm2(model, tmp_path / str(number), about)
    assert len({(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(5)}) == 1
    assert read_about(tmp_path / "0") == about
    assert all(
        torch.equal(a, b) for a, b in zip(load_causal(tmp_path / "0").parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize("ranks", [2])
def test_a_split_of_wqkv_on_group_borders_is_a_smaller_model(model: CausalLM, ranks: int) -> None:
    """Tensor parallelism is a plain chunk of `wqkv` (rows) and `wo` (columns): partial outputs add up to the whole."""
    block = model.model.layers["0"].attention
    packed = Packed.of(documents())
    batch = Documents.of(packed, SHAPE, torch.float32)
    x = torch.randn(len(packed.tokens), SHAPE.hidden, generator=torch.Generator().manual_seed(4))
    whole = block(x, batch)
    total = torch.zeros_like(whole)
    rows, columns = block.wqkv.weight.chunk(ranks, 0), block.wo.weight.chunk(ranks, 1)
    for wqkv, wo in zip(rows, columns, strict=True):
        part = type(block)(SHAPE)
        part.wqkv.weight, part.wo.weight = torch.nn.Parameter(wqkv), torch.nn.Parameter(wo)
        total = total + part(x, batch)
    torch.testing.assert_close(total, whole, atol=1e-5, rtol=1e-4)
