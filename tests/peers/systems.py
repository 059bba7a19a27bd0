"""The functions of other systems; `make peers` installs these.

verl imports as it is. OpenRLHF's and XTuner's packages need CUDA extensions to import, so of these single files or
single functions are taken: the installed source, run as it stands.
"""

import ast
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

VERSIONS = {"verl": "0.9.1", "openrlhf": "0.11.2", "xtuner": "0.2.0"}


def require(*packages: str) -> None:
    """Skip the module that calls this where one of the packages is absent or of another version than was read."""
    for package in packages:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed; run `make peers`", allow_module_level=True)
        if version != VERSIONS[package]:
            pytest.skip(f"{package} is {version}, these tests know {VERSIONS[package]}", allow_module_level=True)


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def file_alone(package: str, name: str, path: Path) -> Any:
    """Import one file as `package.name` under a stub package, so that it finds siblings loaded before it."""
    stub = sys.modules.setdefault(package, types.ModuleType(package))
    stub.__path__ = [str(path.parent)]
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def method_alone(path: Path, class_name: str, name: str) -> Callable[..., Any]:
    """A method that makes no use of `self`, as a function without it; decorators and annotations are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    method = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert method.args.args[0].arg == "self"
    assert not any(isinstance(n, ast.Name) and n.id == "self" for n in ast.walk(method)), f"{name} needs self"
    del method.args.args[0]
    method.decorator_list, method.returns = [], None
    for argument in method.args.args:
        argument.annotation = None
    module = ast.Module([method], type_ignores=[])
    scope: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(compile(module, str(path), "exec"), scope)
    function: Callable[..., Any] = scope[name]
    return function


def openrlhf_models() -> tuple[Any, Any]:
    """OpenRLHF's `models.utils` and `models.loss`."""
    folder = _folder_of("openrlhf") / "models"
    utils = file_alone("openrlhf_models", "utils", folder / "utils.py")
    return utils, file_alone("openrlhf_models", "loss", folder / "loss.py")


def openrlhf_gae() -> Callable[..., Any]:
    """OpenRLHF's GAE: (values, rewards, action_mask, gamma, lambd) -> advantages, returns."""
    path = _folder_of("openrlhf") / "trainer" / "ppo_utils" / "experience_maker.py"
    return method_alone(path, "RemoteExperienceMaker", "get_advantages_and_returns")


def xtuner_reward(name: str) -> Callable[..., Any]:
    """A loss of XTuner's reward model."""
    return method_alone(_folder_of("xtuner") / "model" / "reward.py", "RewardModel", name)


def verl_algorithms() -> Any:
    """verl's `trainer.ppo.core_algos`."""
    from verl.trainer.ppo import core_algos  # type: ignore[import-not-found,unused-ignore]

    return core_algos
