"""Turns a model that a person names into a folder that a server reads: weights, tokenizer and chat template."""

import json
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config.run_folder import NAME as RUN_SETTINGS
from ilm_ray.data.tokenizer.chat import AnyTokenizer, config_ids
from ilm_ray.data.tokenizer.opening import holds_tokenizer, open_tokenizer
from ilm_ray.model.huggingface import DTYPES, export_model, export_tokens
from ilm_ray.model.origin import Origin, load_origin
from ilm_ray.model.weights import load_causal, tensor_names
from ilm_ray.run import manifest as manifests
from ilm_ray.run.stage import IN_PROGRESS
from ilm_ray.run.whole import require_whole_stage


def is_exported(model: Path) -> bool:
    """Whether a server reads `model` as it is; else it is a model of ours. Raises UserError where it is neither."""
    if not (model / "config.json").is_file():
        weights, _ = model_and_tokenizer(model)
        if "v_head.weight" in tensor_names(weights):
            raise _no_language_model(model, "a reward model of ours")
        return False
    names = read_architectures(model)
    if names and not any(name.endswith("ForCausalLM") for name in names):
        raise _no_language_model(model, f"a {names[0]}")
    if not holds_tokenizer(model):
        raise UserError(f"model={model} has a config.json and no tokenizer.json; export it with its tokenizer")
    return True


def servable(model: Path, scratch: Path, dtype: str) -> Path:
    """`model` itself where it is an exported folder; else its export (its family's format, `dtype`) in `scratch`.

    model: an exported folder, a stage of a run (`runs/x/sft`) or that stage's `model`. Raises UserError for anything
    else.
    """
    if is_exported(model):
        return model
    weights, tokens = model_and_tokenizer(model)
    for stage in (weights.absolute().parent, tokens):
        require_whole_stage(stage)
    tokenizer, origin = open_tokenizer(tokens), load_origin(weights)
    ids = token_ids(tokenizer, origin)
    export_model(load_causal(weights), scratch, None, DTYPES[dtype], ids, origin)
    tokenizer.save_huggingface(scratch)
    return scratch


def token_ids(tokenizer: AnyTokenizer, origin: Origin | None) -> dict[str, Any]:
    """The ids that an export's config.json names in the place of its origin's: generation ends at a turn's end too."""
    if origin is None:
        return export_tokens(config_ids(tokenizer))
    known = origin.generation.get("eos_token_id", origin.config.get("eos_token_id"))
    ends = known if isinstance(known, list) else [] if known is None else [known]
    return {} if tokenizer.turn_end_id in ends else {"eos_token_id": [*ends, tokenizer.turn_end_id]}


def model_and_tokenizer(model: Path) -> tuple[Path, Path]:
    """The folders of a model's weights in our own format and of its run's tokenizer.

    model: a stage of a run or that stage's `model`. Raises UserError where either is not there.
    """
    weights = model if (model / "shape.json").is_file() else model / "model"
    if not (weights / "shape.json").is_file():
        raise UserError(
            f"model={model} is {_kind(model)}: give a stage of a run (RUN_DIR/sft, RUN_DIR/ppo) or an exported folder "
            "with config.json and tokenizer.json"
        )
    tokens = weights.absolute().parent.parent / "tokenizer"
    if not tokens.is_dir():
        raise UserError(f"model={model} has no tokenizer at {tokens}; give a stage within its run, or export it")
    return weights, tokens


def read_architectures(folder: Path) -> list[str]:
    """The classes that config.json names; none where it names none. Raises UserError where it cannot be read."""
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
        return [str(name) for name in named]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder / 'config.json'} cannot be read ({type(error).__name__}); copy the folder anew"
        ) from None


def _no_language_model(model: Path, kind: str) -> UserError:
    return UserError(
        f"model={model} is {kind}, which gives scores and no answers; give a language model (RUN_DIR/sft, RUN_DIR/ppo)"
    )


def _kind(folder: Path) -> str:
    """A folder that is no model, in words."""
    if not folder.is_dir():
        return "not there" if not folder.exists() else "a file"
    if (folder / RUN_SETTINGS).is_file():
        stages = [path.parent.name for path in sorted(folder.glob("*/model")) if (path / "shape.json").is_file()]
        return f"a run, whose stages with a model are {', '.join(stages) or 'none yet'}"
    if (folder / "COMMIT").is_file():
        return "a checkpoint, whose model `jobs/checkpoint.py export --step N` takes out"
    if holds_tokenizer(folder):
        return "a tokenizer"
    if (folder / manifests.NAME).is_file() or (folder / IN_PROGRESS).is_file():
        return "a stage that has no model" if (folder / manifests.NAME).is_file() else "a stage that has not finished"
    return "no model"
