"""Held-out bits per byte of finished models, one Ray task a model."""

from pathlib import Path

import ray

from ilm_ray.config import Config

# Forwards over a few held-out documents; a model that needs longer than this hangs.
DEADLINE_S = 3600.0


def heldout_bits_per_byte(models: dict[str, Path], run_dir: Path, config: Config) -> dict[str, dict[str, float]]:
    """Bits per byte of each model and source, at the last phase's context."""
    measure = ray.remote(num_cpus=1)(_measure)
    context = config.pretrain.phases[-1].context
    tokens = config.evaluation.heldout_sequences * 256
    running = {name: measure.remote(str(folder), str(run_dir), context, tokens) for name, folder in models.items()}
    _, late = ray.wait(list(running.values()), num_returns=len(running), timeout=DEADLINE_S)
    if late:
        names = ", ".join(name for name, work in running.items() if work in late)
        raise TimeoutError(f"no held-out bits per byte within {DEADLINE_S:g} s of: {names}")
    return dict(zip(running, ray.get(list(running.values())), strict=True))


def _measure(folder: str, run_dir: str, context: int, tokens: int) -> dict[str, float]:
    import torch

    from ilm_ray.model.huggingface import load_causal
    from ilm_ray.pretrain.heldout import Window, bits_per_byte, heldout_windows
    from ilm_ray.pretrain.phases import open_sources
    from ilm_ray.tokenizer.tokenizer import Tokenizer

    lengths = torch.from_numpy(Tokenizer.load(Path(run_dir) / "tokenizer").byte_lengths())
    model = load_causal(Path(folder)).eval()
    sources = open_sources(Path(run_dir) / "tokens", "heldout")
    windows: dict[str, list[Window]] = {
        name: heldout_windows(source, context, tokens, max(context, 1024))
        for name, source in sources.items()
        if len(source)
    }
    with torch.no_grad():
        return bits_per_byte(
            model, windows, lengths, lambda m, ws, f: [sum(v) for v in zip(*(f(m, w) for w in ws), strict=True)]
        )
