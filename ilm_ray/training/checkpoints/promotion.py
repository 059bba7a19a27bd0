"""A checkpoint's weights as a whole model, and as the model that a stage hands on."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape
from ilm_ray.model.weights import read_about, save_internlm2
from ilm_ray.run import manifest as manifests
from ilm_ray.run.stage import IN_PROGRESS, work_fingerprint
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.states import load_whole, tensors_in


def checkpoint_of(folder: Path, step: int) -> Path:
    """The local checkpoint of a step of the stage in `folder`. Raises UserError where there is none."""
    there = commit.committed(folder / "checkpoints")
    path = folder / "checkpoints" / commit.name_of(step)
    if path not in there:
        steps = ", ".join(str(commit.step_of(checkpoint)) for checkpoint in there) or "none"
        raise UserError(f"{folder} has no committed checkpoint of step {step}; it has {steps}")
    return path


def whole_checkpoint(folder: Path, step: int) -> Path:
    """As `checkpoint_of`; raises UserError where it is damaged too."""
    path = checkpoint_of(folder, step)
    if wrong := commit.verify(path):
        raise UserError(f"{path} is damaged: {'; '.join(wrong[:3])}; choose another step")
    return path


def whole_model(path: Path) -> CausalLM | ScalarModel:
    """The model of a whole checkpoint, with the RoPE base and context that it had then."""
    scalar = "model.v_head.weight" in tensors_in(path)
    with torch.device("meta"):  # no memory and no drawing of weights that are read at once
        model = (ScalarModel if scalar else CausalLM)(Shape.of(commit.read(path).state["shape"]))
    model.to_empty(device="cpu")
    load_whole(path, model)
    return model


def promote(folder: Path, step: int) -> dict[str, Any]:
    """Make a step's weights the model of the finished stage in `folder`; returns the manifest's new summary.

    The manifest gets the new files' hashes, the step's own figures as its summary, and `promoted`. The stage itself is
    not run again, for its settings and inputs are the same; stages that read its model are. If it is killed half-way,
    the stage counts as under way, and its job finishes it from its last checkpoint.
    """
    done, path = _finished(folder), whole_checkpoint(folder, step)
    model, record, about = whole_model(path), commit.read(path), read_about(folder / "model")
    summary = {**done.metrics.get("summary", {}), **_logged(folder / "metrics.jsonl", step)}
    summary |= {"step": step, "tokens": record.state["tokens"]}
    with _model_changes(folder, done, {"summary": summary, "promoted": step}):
        save_internlm2(model, folder / "model", about)
    return summary


def promote_candidate(folder: Path, iteration: int) -> dict[str, Any]:
    """As `promote`, for PPO: makes the policy that was validated after so many iterations the model of the stage."""
    done, candidates = _finished(folder), folder / "candidates"
    path = candidates / f"iteration-{iteration:06d}"
    if not path.is_dir():
        there = ", ".join(str(int(p.name.partition("-")[2])) for p in sorted(candidates.glob("iteration-*"))) or "none"
        raise UserError(f"{folder} has no validated policy of iteration {iteration}; it has {there}")
    with _model_changes(folder, done, {"promoted": iteration}):
        shutil.copytree(path, folder / "model", dirs_exist_ok=True)
    return {"iteration": iteration}


def _finished(folder: Path) -> manifests.Manifest:
    done = manifests.load(folder)
    if done is None:
        raise UserError(f"{folder} is no finished stage; promote changes the model of one that is")
    return done


@contextlib.contextmanager
def _model_changes(folder: Path, done: manifests.Manifest, figures: dict[str, Any]) -> Iterator[None]:
    """While the model changes the stage counts as under way; then its manifest has the new hashes and figures."""
    write_text_atomic(folder / IN_PROGRESS, work_fingerprint(folder) or "")
    (folder / manifests.NAME).unlink()
    yield
    files = manifests.describe_files(folder, [folder / name for name in done.files])
    manifests.commit(folder, replace(done, files=files, metrics={**done.metrics, **figures}))
    (folder / IN_PROGRESS).unlink()


def _logged(path: Path, step: int) -> dict[str, Any]:
    """The figures of the last logged row up to `step` that a stage's summary has too."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    before = [row for row in rows if row["step"] <= step]
    return {name: before[-1][name] for name in ("loss", "tokens_per_second") if before and name in before[-1]}
