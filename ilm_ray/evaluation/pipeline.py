"""Bits per byte of finished models on held-out text, one Ray task a model."""

from pathlib import Path
from typing import Any

import ray

from ilm_ray.base.places import located
from ilm_ray.config import Config

# Forwards over a few held-out documents; a model that needs longer than this hangs.
DEADLINE_S = 3600.0


def heldout_measures(models: dict[str, Path], run_dir: Path, config: Config) -> dict[str, dict[str, Any]]:
    """Model -> `bits_per_byte` of each source, and `by_position` over all sources, at the last phase's context.

    Where `evaluation.position_text` is set, by_position is of that text. Without a document of two tokens it is {}.
    """
    measure = ray.remote(num_cpus=1)(_measure)
    context = config.pretrain.phases[-1].context
    tokens = config.evaluation.heldout_sequences * 256
    path = config.evaluation.position_text
    text = None if path is None else Path(located(path)).read_text(encoding="utf-8")
    running = {
        name: measure.remote(str(folder), str(run_dir), context, tokens, text) for name, folder in models.items()
    }
    _, late = ray.wait(list(running.values()), num_returns=len(running), timeout=DEADLINE_S)
    if late:
        names = ", ".join(name for name, work in running.items() if work in late)
        raise TimeoutError(f"no held-out bits per byte within {DEADLINE_S:g} s of: {names}")
    return dict(zip(running, ray.get(list(running.values())), strict=True))


def _measure(folder: str, run_dir: str, context: int, tokens: int, text: str | None) -> dict[str, Any]:
    import numpy as np
    import torch

    from ilm_ray.data.tokenizer.tokenizer import Tokenizer
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

    tokenizer = Tokenizer.load(Path(run_dir) / "tokenizer")
    lengths = torch.from_numpy(tokenizer.byte_lengths())
    model = load_causal(Path(folder)).eval()
    sources = {name: s for name, s in open_sources(Path(run_dir) / "tokens", "heldout").items() if len(s)}
    windows: dict[str, list[Window]] = {
        name: heldout_windows(source, context, tokens, max(context, 1024)) for name, source in sources.items()
    }
    if text is None:
        documents = [[source.tokens(i) for i in np.flatnonzero(source.lengths > 1)] for source in sources.values()]
    else:
        documents = [[np.array([tokenizer.bos_id, *tokenizer.encode(text)])]]
    longest = max((len(document) for of_source in documents for document in of_source), default=0)
    by_position: dict[str, Any] = {}
    with torch.no_grad():
        bits = bits_per_byte(
            model, windows, lengths, lambda m, ws, f: [sum(v) for v in zip(*(f(m, w) for w in ws), strict=True)]
        )
        if length := measured_length(longest, context):
            most, edges = max(1, tokens // length), bucket_edges(length)
            long = [window for of_source in documents for window in full_windows(of_source, length, most)]
            by_position = position_curve(windows_by_position(model, long, lengths, edges), edges, len(long))
    return {"bits_per_byte": bits, "by_position": by_position}
