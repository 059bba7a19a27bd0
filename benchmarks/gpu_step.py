"""Our training step on one GPU: tokens a second and MFU. Needs torch (2.11 or later) and this repository, no Ray.

    python benchmarks/gpu_step.py [--size 1_8b] [--context 4096] [--rows 4] [--recompute none] [--compile no]
                                  [--attention auto] [--steps 10]
    python benchmarks/gpu_step.py --tiny        # end to end on a CPU, for nothing but to see that it runs

bf16 with fp32 master weights as the trainer has it (`parallelize` on one rank), forward, backward, clipping, fused
AdamW; random tokens, rows of one document each, or of `--documents` equal ones. The physical limit is the card's dense
bf16 peak; MFU is given by both conventions (`flops_per_token`): all keys counted, and causal, which counts half.
Several values of --context, --rows, --recompute, --compile and --attention are tried one after the other.
"""

import argparse
import importlib
import inspect
import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.model.attention import attention
from ilm_ray.model.internlm2 import Attention, CausalLM, Packed, Shape, initialize
from ilm_ray.training.measure.meter import peak_flops
from ilm_ray.training.parallel.parallelize import parallelize
from ilm_ray.training.parallel.sharding import clip_gradients
from ilm_ray.training.plan.devices import DEVICES
from ilm_ray.training.plan.step import flops_per_token

SIZES = {
    "1_8b": Shape(92_544, 24, 2048, 8, 2, 128, 8192),
    "7b": Shape(92_544, 32, 4096, 8, 4, 128, 14_336),
    "tiny": Shape(512, 2, 64, 2, 2, 16, 128),
}
Attend = Callable[..., Tensor]


def attend_by(name: str) -> Attend:
    """The attention seam by one named kernel. Raises ImportError where it is not installed."""
    if name == "auto":
        return attention
    if name == "torch":
        return _torch_varlen()
    module = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}[name]
    kernel = importlib.import_module(module).flash_attn_varlen_func

    def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        named = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        known = inspect.signature(kernel).parameters
        named |= {key: max_seqlen for key in ("max_seqlen_q", "max_seqlen_k") if key in known}
        out = kernel(q, k, v, causal=True, **named)
        return out[0] if isinstance(out, tuple) else out

    return attend


def _torch_varlen() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped = "enable_gqa" in known
    if grouped:
        causal["enable_gqa"] = True

    def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        if not grouped:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **causal)
        return out[0] if isinstance(out, tuple) else out

    return attend


def batch_of(rows: int, context: int, documents: int, vocabulary: int, device: torch.device) -> tuple[Packed, Tensor]:
    length, count = context // documents, rows * documents
    tokens = torch.randint(0, vocabulary, (length * count,), generator=torch.Generator().manual_seed(0))
    borders = torch.arange(count + 1, dtype=torch.int32) * length
    batch = Packed(tokens, torch.arange(length).repeat(count), borders, length)
    return batch.to(device), torch.roll(tokens, -1).to(device)


def measure(case: dict[str, Any], args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Build the model, make a few steps, time `args.steps` of them."""
    shape = SIZES[args.size]
    layout = Layout(recompute=case["recompute"], compile=case["compile"])
    with torch.device("meta"):
        model = CausalLM(shape, loss_chunk=args.loss_chunk)
    attend = attend_by(case["attention"])
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend
    laid_out = parallelize(model, layout, device, "bf16")
    initialize(laid_out.parts[0], 0)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(laid_out.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    window = batch_of(case["rows"], case["context"], args.documents, shape.vocab_size, device)
    tokens = len(window[1])

    def step() -> Tensor:
        optimizer.zero_grad()
        losses = laid_out.backward_windows([window], 1 / tokens)
        clip_gradients(laid_out.parameters(), 1.0)
        optimizer.step()
        return losses[0]

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    first = float(step()) / tokens
    for _ in range(args.warmup):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(args.steps):
        last = step()
    wait()
    seconds = (time.perf_counter() - started) / args.steps
    peak = args.peak or (peak_flops(_card(device)) if device.type == "cuda" else None)
    figures: dict[str, Any] = {
        "tokens_s": round(tokens / seconds, 1), "step_s": round(seconds, 4), "first_loss": round(first, 4),
        "last_loss": round(float(last) / tokens, 4),
    }  # fmt: skip
    if peak:
        for convention, causal in (("mfu", False), ("mfu_causal", True)):
            flops = flops_per_token(shape, case["context"] // args.documents, causal)
            figures[convention] = round(flops * tokens / seconds / peak, 4)
    if device.type == "cuda":
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return figures


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


def tried(case: dict[str, Any], args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Figures of a case, or in a word why there are none."""
    try:
        return measure(case, args, device)
    except ImportError as error:
        return {"skipped": f"not installed: {error}"}
    except torch.OutOfMemoryError as error:
        return {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    finally:
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1_8b")
    parser.add_argument("--context", type=int, nargs="+", default=[4096])
    parser.add_argument("--rows", type=int, nargs="+", default=[4])
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--recompute", nargs="+", choices=["none", "selective", "full"], default=["none"])
    parser.add_argument("--compile", nargs="+", choices=["no", "yes"], default=["no"])
    parser.add_argument(
        "--attention", nargs="+", choices=["auto", "torch", "flash2", "flash3", "flash4"], default=["auto"]
    )
    parser.add_argument("--loss-chunk", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--peak", type=float, help="FLOP/s of the card, where it is not one of " + ", ".join(DEVICES))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.size, args.context, args.rows, args.steps, args.warmup = "tiny", [64], [2], 2, 1
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    if not on_gpu and not args.tiny:
        parser.error("no GPU here; --tiny runs on a CPU")
    if on_gpu:
        torch.cuda.set_device(device)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    dist.init_process_group("nccl" if on_gpu else "gloo")
    print(f"torch {torch.__version__}, {_card(device)}", flush=True)
    names = ("context", "rows", "recompute", "compile", "attention")
    rows = []
    for values in itertools.product(*(getattr(args, name) for name in names)):
        case = dict(zip(names, values, strict=True)) | {"compile": values[3] == "yes"}
        rows.append(case | tried(case, args, device))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    dist.destroy_process_group()
    print(json.dumps({"device": _card(device), "torch": torch.__version__, "size": args.size, "cases": rows}))


if __name__ == "__main__":
    main()
