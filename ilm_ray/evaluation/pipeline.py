"""Bits per byte of finished models on held-out text, one Ray task a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from ilm_ray.base.places import located
from ilm_ray.config import Config
from ilm_ray.config.road import stages_on
from ilm_ray.model.weights import load_shape
from ilm_ray.training.measure import cost

if TYPE_CHECKING:
    import torch


def heldout_measures(models: dict[str, Path], run_dir: Path, config: Config) -> dict[str, dict[str, Any]]:
    """Model -> `bits_per_byte` of each source, and `by_position` over all sources, at the last phase's context.

    Without tokens on the run's road bits_per_byte is {}.

    Where `evaluation.position_text` is set, by_position is of that text. Without a document of two tokens it is {}.
    Where the cluster has GPUs each model gets one, in bf16; else a core, in fp32. Raises TimeoutError for a model that
    takes many times longer than its size and the data say.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    measure = ray.remote(num_cpus=1, num_gpus=min(gpus, 1))(_measure)
    context = config.pretrain.phases[-1].context
    tokens = config.evaluation.heldout_sequences * 256
    path = config.evaluation.position_text
    text = None if path is None else Path(located(path)).read_text(encoding="utf-8")
    heldout = "tokens" in stages_on(config)
    running = {
        name: measure.remote(str(folder), str(run_dir), context, tokens, text, gpus > 0, heldout)
        for name, folder in models.items()
    }
    parts = sum(1 for source in (run_dir / "tokens").iterdir() if (source / "heldout").is_dir()) if heldout else 0
    most = (2 * parts if text is None else parts + 1) * max(tokens, context)
    deadline_s = max(
        cost.deadline_s(shape, cost.forward_s(shape, most, context, gpus > 0), -(-len(models) // max(gpus or cpus, 1)))
        for shape in map(load_shape, models.values())
    )
    _, late = ray.wait(list(running.values()), num_returns=len(running), timeout=deadline_s)
    if late:
        names = ", ".join(name for name, work in running.items() if work in late)
        raise TimeoutError(f"no held-out bits per byte within {deadline_s:.0f} s of: {names}")
    return dict(zip(running, ray.get(list(running.values())), strict=True))


def _measure(
    folder: str, run_dir: str, context: int, tokens: int, text: str | None, on_gpu: bool, heldout: bool
) -> dict[str, Any]:
    import torch

    # Ray shows all GPUs to a task that booked none, so the device is no matter of what torch sees.
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    return measured(Path(folder), Path(run_dir), context, tokens, text, device, dtype, heldout)


def measured(
    folder: Path,
    run_dir: Path,
    context: int,
    tokens: int,
    text: str | None,
    device: str,
    dtype: "torch.dtype",
    heldout: bool = True,
) -> dict[str, Any]:
    """The figures of `heldout_measures` of the model in `folder`, computed on `device` in `dtype`.

    heldout: whether the run has held-out tokens.
    """
    import numpy as np
    import torch

    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.evaluation.positions import (
        bucket_edges,
        full_windows,
        measured_length,
        position_curve,
        windows_by_position,
    )
    from ilm_ray.model.weights import load_causal
    from ilm_ray.training.measure.heldout import Window, bits_per_byte, heldout_windows
    from ilm_ray.training.pretrain import open_sources

    tokenizer = open_tokenizer(run_dir / "tokenizer")
    lengths = torch.from_numpy(tokenizer.byte_lengths())
    model = load_causal(folder, torch.device(device), dtype).eval()
    of_run = open_sources(run_dir / "tokens", "heldout") if heldout else {}
    sources = {name: s for name, s in of_run.items() if len(s)}
    packed = cost.packed_tokens(model.shape, context, device != "cpu")
    windows: dict[str, list[Window]] = {
        name: heldout_windows(source, context, tokens, packed) for name, source in sources.items()
    }
    if text is None:
        documents = [[source.tokens(i) for i in np.flatnonzero(source.lengths > 1)] for source in sources.values()]
    else:
        documents = [[np.array([tokenizer.bos_id, *tokenizer.encode(text)])]]
    longest = max((len(document) for of_source in documents for document in of_source), default=0)
    by_position: dict[str, Any] = {}
    with torch.no_grad():
        bits = {}
        if windows:
            bits = bits_per_byte(
                model, windows, lengths, lambda m, ws, f: [sum(v) for v in zip(*(f(m, w) for w in ws), strict=True)]
            )
        if length := measured_length(longest, context):
            most, edges = max(1, tokens // length), bucket_edges(length)
            long = [window for of_source in documents for window in full_windows(of_source, length, most)]
            by_position = position_curve(windows_by_position(model, long, lengths, edges), edges, len(long))
    return {"bits_per_byte": bits, "by_position": by_position}
