"""The kernel of packed documents is chosen before a forward is traced, and a block then stays one graph."""

import functools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from ilm_ray.model import attention as attention_module
from ilm_ray.model.attention import attention, torch_varlen, varlen_kernel
from ilm_ray.model.internlm2 import Attention, CausalLM, Documents, Packed, Shape, use_kernel
from ilm_ray.training.parallel.recompute import compile_blocks, recompute_blocks

SHAPE = Shape(vocab_size=64, layers=1, hidden=32, kv_heads=2, queries_per_kv=2, head_dim=8, mlp_hidden=48)
CPU = torch.device("cpu")


def _stub(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    return q * k.mean() * v.mean()


@pytest.fixture()
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for flash-attn 2: the name that is imported, and no kernel."""
    module: Any = ModuleType("flash_attn")
    module.flash_attn_varlen_func = _stub
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.fixture()
def no_flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # import raises ImportError


def test_torch_s_kernel_is_the_default_and_flash_attn_is_used_where_it_is_installed(
    no_flash_attn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert varlen_kernel(CPU) is torch_varlen
    module: Any = ModuleType("flash_attn")  # as flash-attn 4 leaves it
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    assert varlen_kernel(CPU) is torch_varlen
    module.flash_attn_varlen_func = _stub
    ones = torch.ones(3, 1, 2)
    assert varlen_kernel(CPU) is not torch_varlen
    assert varlen_kernel(CPU)(ones, 2 * ones, 3 * ones, ones, ones, 3).equal(6 * ones)


@pytest.mark.parametrize(
    ("major", "installed", "expected"),
    [(9, ("FA3", "FA4"), "FA3"), (9, ("FA4",), "FA4"), (10, ("FA3", "FA4"), "FA4"), (10, ("FA3",), None),
     (8, ("FA3", "FA4"), None), (12, ("FA3", "FA4"), None), (9, (), None)],
)  # fmt: skip
def test_a_newer_kernel_is_used_where_it_is_installed_and_the_card_fits(
    major: int, installed: tuple[str, ...], expected: str | None, flash_attn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = list[str]()

    def activate(name: str) -> None:
        if name not in installed:
            raise ImportError(name)
        active.append(name)

    kernels = SimpleNamespace(
        current_flash_attention_impl=lambda: active[-1] if active else None, activate_flash_attention_impl=activate
    )
    monkeypatch.setattr(attention_module, "kernels", kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    for _ in range(2):  # a second model in the process
        kernel = varlen_kernel(torch.device("cuda"))
        assert (kernel is torch_varlen) == (expected is not None)
        assert active == ([expected] if expected else [])


def _graphs(how: Literal["none", "selective", "full"]) -> tuple[int, int]:
    """(graphs, graph breaks) of a block that torch.compile sees on a card, by a backend that only counts."""
    graphs = list[Any]()

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        (given,) = next(node for node in graph.graph.nodes if node.op == "output").args
        values = [node.meta["example_value"] for node in given]
        return lambda *_: [torch.zeros(v.shape, dtype=v.dtype) for v in values]

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = CausalLM(SHAPE).to(torch.bfloat16)
    use_kernel(model, varlen_kernel(CPU))
    recompute_blocks(model, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        compile_blocks(model)
    batch = Packed.of([[1] * 5, [2] * 9])
    x = torch.zeros(14, SHAPE.hidden, dtype=torch.bfloat16, requires_grad=True)
    model.model.layers["0"](x, Documents.of(batch, SHAPE, torch.bfloat16))
    return len(graphs), sum(torch._dynamo.utils.counters["graph_break"].values())


@pytest.mark.long
@pytest.mark.parametrize("installed", ["no_flash_attn", "flash_attn"])
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_a_block_on_a_card_is_one_graph(
    how: Literal["none", "selective", "full"],
    installed: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request.getfixturevalue(installed)
    monkeypatch.setattr(attention_module, "_has_kernel", lambda _: True)  # tensors of a CPU stand for those of a card
    assert _graphs(how) == (1, 0)


@pytest.mark.long
def test_an_import_in_the_forward_would_break_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above would see it: the choice made inside the forward gives no graph where a block is recomputed."""

    def chosen_late(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int) -> Tensor:
        return varlen_kernel(CPU)(q, k, v, borders, borders, longest)

    build = Attention.__init__

    def init(self: Attention, shape: Shape) -> None:
        build(self, shape)
        self.attend = chosen_late

    monkeypatch.setattr(Attention, "__init__", init)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(attention_module, "varlen_attn", lambda q, *_, **__: q * 1.0)  # it runs eagerly, on a CPU
    graphs, breaks = _graphs("full")
    assert graphs == 0 and breaks


def test_kernels_chosen_for_a_model_stay_out_of_others() -> None:
    first, second = CausalLM(SHAPE), CausalLM(SHAPE)
    use_kernel(first, lambda *_: torch.zeros(0))
    assert second.model.layers["0"].attention.attend is attention
