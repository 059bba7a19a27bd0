"""The README.md of an exported model: its base, data, training and evaluation, by the manifests.

Local folders are named by their last part: the card may be published.
"""

import re
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.run_folder import NAME, remembered
from ilm_ray.model.hub import HUB
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import read_json

# Figures of a stage's summary that the card tells.
_FIGURES = ("step", "iterations", "tokens", "loss", "heldout_accuracy", "reward", "kl")
_EVALUATED = ("bits_per_byte", "reward_sft", "reward_ppo", "reward_gain_in_standard_errors", "kl_nats")
_DATA = {"sft": ("sft", "data"), "reward": ("reward", "data"), "ppo": ("ppo", "prompts")}


def model_card(run_dir: Path, stage: str, title: str) -> str:
    """Markdown with the Hub's header. Raises UserError where the stage has not finished or a manifest is damaged."""
    lineage = _lineage(run_dir, stage)
    config = _config(run_dir)
    begins = {name: m.metrics["summary"] for name, m in lineage.items() if name.startswith("base/")}
    hub = [str(row["from"]).removeprefix(HUB) for row in begins.values() if str(row["from"]).startswith(HUB)]
    task = "text-classification" if stage == "reward" else "text-generation"
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}", "tags: [ilm_ray]"]
    lines += [f"base_model: {hub[0]}"] if hub else []
    lines += ["---", "", f"# {_plain(title)}", "", f"Stage `{stage}` of a run of ilm_ray.", ""]
    if begins:
        lines += ["## Base", "", "| role of | model | architecture | parameters |", "|---|---|---|---|"]
        lines += [
            f"| {name.removeprefix('base/')} | {_place(row['from'])} | {row['architecture']} | {row['parameters']:,} |"
            for name, row in begins.items()
        ]
        lines.append("")
    lines += ["## Training", "", "| stage | result | data |", "|---|---|---|"]
    trained = {name: m for name, m in lineage.items() if name in ("pretrain", "sft", "reward", "ppo")}
    lines += [f"| {name} | {_figures(m, _FIGURES)} | {_data(config, name, m)} |" for name, m in trained.items()]
    lines += ["", *_evaluation(run_dir, lineage, stage)]
    return "\n".join(lines).rstrip() + "\n"


def _lineage(run_dir: Path, stage: str) -> dict[str, Manifest]:
    """The stage and those that it was made from, the first ones first."""
    done = manifests.load(run_dir / stage)
    if done is None:
        raise UserError(f"stage '{stage}' has not finished in {run_dir}; run its job first")
    lineage = dict[str, Manifest]()
    for name in done.inputs:
        if (run_dir / name / manifests.NAME).is_file():  # others are files
            lineage |= _lineage(run_dir, name)
    return lineage | {stage: done}


def _evaluation(run_dir: Path, lineage: dict[str, Manifest], stage: str) -> list[str]:
    """Figures of the stage `evaluation`, where it has measured this result."""
    done = manifests.load(run_dir / "evaluation")
    if done is None or done.inputs.get(stage) != lineage[stage].fingerprint:
        return ["## Evaluation", "", "None yet."]
    rows = [f"Rewards and KL: {_figures(done, _EVALUATED)}."] if stage == "ppo" else []
    bits = (read_json(run_dir / "evaluation" / "evaluation.json") or {}).get("bits_per_byte", {}).get(stage, {})
    rows += (
        [f"Held-out bits per byte: {', '.join(f'{name} {value:.4g}' for name, value in bits.items())}."] if bits else []
    )
    return ["## Evaluation", "", *(rows or ["None of this stage."])]


def _figures(manifest: Manifest, names: tuple[str, ...]) -> str:
    summary = manifest.metrics.get("summary", {})
    known = {name: summary[name] for name in names if isinstance(summary.get(name), int | float)}
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value:,}"
        for name, value in known.items()
    )


def _data(config: Config | None, stage: str, manifest: Manifest) -> str:
    """Names of the files that a stage read and the beginnings of their SHA-256; the parts that it did without."""
    hashes = [
        value[:12] for name, value in manifest.inputs.items() if name in ("conversations", "preferences", "prompts")
    ]
    named = _DATA.get(stage)
    path: Any = getattr(getattr(config, named[0]), named[1]) if config is not None and named else None
    parts = [f"{_plain(Path(path).name) if path else 'a file'} (SHA-256 {found}...)" for found in hashes]
    parts += ["pre-training tokens of the run"] if "tokens" in manifest.inputs else []
    return "; ".join(parts)


def _config(run_dir: Path) -> Config | None:
    try:
        return remembered(run_dir / NAME)
    except UserError:
        return None


def _place(place: str) -> str:
    return _plain(place.removeprefix(HUB) if place.startswith(HUB) else Path(place).name)


def _plain(text: str) -> str:
    """Without the characters that mean something in Markdown's tables or in HTML."""
    return re.sub(r"[|<>`\n\r\[\]]", " ", text)
