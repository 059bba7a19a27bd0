"""Model folders of others: a dense family's checkpoint comes in, and goes out as that family's. safetensors only.

Reward models are `InternLM2ForRewardModel`, and `...ForSequenceClassification` of any family with one label. Both are
to be read at the appended reward token. No process holds a whole model here: tensors pass one at a time.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.model.families import FAMILIES, TWIN, Family, config_of, family_of, lacks, shape_of, unlike_ours
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.model.names import fuse_wqkv, llama_names, split_wqkv
from ilm_ray.model.origin import Origin
from ilm_ray.model.shards import Shards, write_shards
from ilm_ray.model.weights import new_internlm2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SCALAR_HEAD = "v_head.weight"
_ERRORS = (OSError, LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError, RecursionError)
_CONFIGURATION = '''"""The configuration class of {prefix}, which Transformers has not: config.json names this file."""

from transformers import PretrainedConfig


class {prefix}Config(PretrainedConfig):
    model_type = "{model_type}"

    def __init__(self, bias=False, **kwargs):
        self.bias = bias
        super().__init__(**kwargs)
'''


class Description:
    """A family's config.json: whether a checkpoint is a reward model (scalar), and its shape.

    Raises UserError where it is of no dense family, or where our model lacks a feature of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, _json(folder / "config.json")
        known = "/".join(f.prefix for f in FAMILIES.values())
        try:
            architecture = self.config["architectures"][0]
            if (found := family_of(architecture)) is None:
                experts = any("expert" in key for key in self.config) or "moe" in architecture.lower()
                why = "is a mixture of experts" if experts else "is not known"
                raise UserError(
                    f"{folder}: architecture {architecture} {why}; ilm_ray trains dense models: {known} (ForCausalLM, "
                    "or reward models)"
                )
            self.family, self.scalar = found
            if wrong := unlike_ours(self.config, *found):
                raise UserError(f"{folder}/config.json: {wrong}; ilm_ray's model has no such thing")
            self.shape = shape_of(self.config, self.family)
        except UserError:
            raise
        except _ERRORS as error:
            raise UserError(
                f"{folder}/config.json does not describe a dense model ({type(error).__name__}: {error}); families are "
                f"{known}"
            ) from None


class Checkpoint(Description):
    """A family's checkpoint, opened: everything but the weights is read and checked against our model.

    Raises UserError as `Description`, and where tensors are missing, left over or of another size.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shards = Shards(folder)
        if self.shape.layers > len(self.shards.sizes):
            raise UserError(
                f"{folder}: config.json names {self.shape.layers} layers, the files hold {len(self.shards.sizes)} "
                "tensors"
            )
        with torch.device("meta"):  # nothing is allocated before it is known to fit the files
            self.model = (ScalarModel if self.scalar else CausalLM)(self.shape)
        self._check()

    @property
    def origin(self) -> Origin:
        path = self.folder / "generation_config.json"
        dtype = self.dtype("model.tok_embeddings.weight")
        return Origin(str(dtype).removeprefix("torch."), self.config, _json(path) if path.exists() else {})

    def dtype(self, name: str) -> torch.dtype:
        """The type in the files of a tensor by our name."""
        return self.shards.dtype(self._names(name)[0])

    def tensor(self, name: str) -> Tensor:
        """A tensor by our name, of the type that it has in the files."""
        names = self._names(name)
        first, *others = (self.shards.tensor(one) for one in names)
        return fuse_wqkv(first, *others, shape=self.shape) if others else first

    def _names(self, name: str) -> list[str]:
        """Names in the files of a tensor of ours."""
        names = [name] if self.family.fused else llama_names(name)
        if name == _SCALAR_HEAD:
            names = ["score.weight" if "score.weight" in self.shards.sizes else name]
        return names

    def _check(self) -> None:
        expected = dict[str, tuple[int, ...]]()
        for name, parameter in self.model.named_parameters():
            names = self._names(name)
            parts = split_wqkv(parameter, self.shape) if len(names) == 3 else (parameter,)
            expected |= {one: tuple(part.shape) for one, part in zip(names, parts, strict=True)}
        ignored = ("rotary_emb", *(("lm_head.", "output.") if self.shape.tied and not self.scalar else ()))
        found = {name: size for name, size in self.shards.sizes.items() if not any(i in name for i in ignored)}
        if differing := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
            name = differing[0]
            raise UserError(
                f"{self.folder}: {len(differing)} tensors do not fit config.json, the first is {name}: "
                f"expected {expected.get(name)}, found {found.get(name)}"
            )


def import_model(folder: Path, out: Path, about: Mapping[str, str] | None = None) -> CausalLM | ScalarModel:
    """Turn a checkpoint into a folder of ours that remembers its origin; returns the model on the meta device.

    about: as in `save_internlm2`. Raises UserError as `Checkpoint`.
    """
    checkpoint = Checkpoint(folder)
    like = {name: parameter.to(checkpoint.dtype(name)) for name, parameter in checkpoint.model.named_parameters()}
    with new_internlm2(out, checkpoint.shape, like, about or {}) as file:
        for name in file.order:
            file.write(name, checkpoint.tensor(name))
    checkpoint.origin.save(out)
    return checkpoint.model


@torch.no_grad()
def read_model(folder: Path, dtype: torch.dtype = torch.float32) -> CausalLM | ScalarModel:
    """The model of a checkpoint. Raises UserError as `Checkpoint`."""
    checkpoint = Checkpoint(folder)
    model = checkpoint.model.to(dtype).to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.copy_(checkpoint.tensor(name))
    return model


def export_model(
    model: CausalLM | ScalarModel,
    folder: Path,
    weight_format: str | None = None,
    dtype: torch.dtype | None = None,
    ids: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Write config.json, generation_config.json and weights in shards into `folder`; returns the former.

    weight_format, dtype: those of the origin by default; LLaMA and bfloat16 where there is none. ids: token ids that
    config.json names (`eos_token_id`, ...), in the place of the origin's. Raises UserError for a format that lacks
    features of the model.
    """
    family = FAMILIES[weight_format] if weight_format else FAMILIES.get(model.shape.family, TWIN)
    dtype = dtype or (getattr(torch, origin.dtype) if origin is not None else torch.bfloat16)
    if lacks(model.shape, family):
        own = model.shape.family or "llama"
        raise UserError(f"format {family.model_type} cannot say all that this {own} model has; export it as {own}")
    config = _config(model, family, origin) | dict(ids or {})
    config["dtype" if "dtype" in config else "torch_dtype"] = str(dtype).removeprefix("torch.")
    own_head = config["architectures"][0].endswith("ForRewardModel")
    tensors, names = dict(model.named_parameters()), dict[str, tuple[str, int]]()
    for name in tensors:
        theirs = [name] if family.fused and (own_head or name != _SCALAR_HEAD) else llama_names(name)
        names |= {one: (name, part) for part, one in enumerate(theirs)}

    def tensor(their_name: str) -> Tensor:
        name, part = names[their_name]
        whole = tensors[name].detach()
        split = len(llama_names(name)) == 3 and not family.fused
        return (split_wqkv(whole, model.shape)[part] if split else whole).to(dtype)

    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, list(names), tensor)
    _write(folder / "config.json", config)
    if family.model_type.startswith("internlm"):
        code = _CONFIGURATION.format(prefix=family.prefix, model_type=family.model_type)
        (folder / f"configuration_{family.model_type}.py").write_text(code, encoding="utf-8")
    if isinstance(model, CausalLM):
        _write(folder / "generation_config.json", {**(origin.generation if origin else {}), **(ids or {})})
    return config


def _config(model: CausalLM | ScalarModel, family: Family, origin: Origin | None) -> dict[str, Any]:
    """The origin's config.json, with the values that training has changed; one of ours where there is no origin."""
    scalar, shape = isinstance(model, ScalarModel), model.shape
    config = config_of(shape, family, scalar)
    if origin is not None and shape.family == family.model_type:
        old = {key: value for key, value in origin.config.items() if key not in ("auto_map", "_name_or_path")}
        before = family_of(old["architectures"][0])
        if before is not None and before[1] == scalar:
            config["architectures"] = old["architectures"]
        old = {key: value for key, value in old.items() if key not in ("num_labels", "id2label", "label2id")}
        old |= {key: config[key] for key in ("architectures", "num_labels") if key in config}
        same = replace(shape_of(old, family), init_std=shape.init_std)
        if same == replace(shape, context=shape.window):
            config = old
        else:
            config = {key: value for key, value in old.items() if not key.startswith("rope_")} | config
            config.pop("torch_dtype" if "dtype" in old else "", None)
    if family.model_type.startswith("internlm"):  # Transformers has no such class
        config["auto_map"] = {"AutoConfig": f"configuration_{family.model_type}.{family.prefix}Config"}
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} does not describe a model ({type(error).__name__}: {error}); give a folder with config.json and "
            ".safetensors files"
        ) from None
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def export_tokens(names: Mapping[str, int]) -> dict[str, Any]:
    """The ids of config.json from a tokenizer's special tokens: generation ends at a turn's end too."""
    return {
        "bos_token_id": names["<s>"],
        "eos_token_id": [names["</s>"], names["<|im_end|>"]],
        "pad_token_id": names["</s>"],
    }
