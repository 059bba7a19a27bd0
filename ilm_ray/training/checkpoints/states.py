"""Weights and optimizer states to and from torch's distributed checkpoints, written by any layout."""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn, optim
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

Part = tuple[nn.Module, optim.Optimizer]  # a rank has one, or one for each of its pipeline stages
States = dict[str, dict[str, Any]]
# Flat optimizer state: names are then those of the parameters, whatever the layout.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


def states_of(parts: Sequence[Part]) -> States:
    """{"model": weights, "optimizer": moments} of all parts: they share no layer, so they share no name.

    Rates, betas and decay of an optimizer are left out: the configuration and the schedule give them, and flattened
    they would be ten small objects a parameter, most of the time that saving a small model takes.
    """
    return _together(_each(parts))


def load_states(path: Path, parts: Sequence[Part], group: dist.ProcessGroup) -> None:
    """Load the checkpoint in `path` into `parts`. Every rank of `group` calls it."""
    each = _each(parts)
    loaded = _together(each)
    dcp.load(loaded, storage_reader=_Reader(path), planner=_LoadPlanner(), process_group=group)
    for (model, optimizer), (weights, moments) in zip(parts, each, strict=True):
        set_state_dict(
            model,
            optimizer,
            model_state_dict={name: loaded["model"][name] for name in weights},
            optim_state_dict={name: loaded["optimizer"].get(name, value) for name, value in moments.items()},
            options=_OPTIONS,
        )


def load_whole(path: Path, model: nn.Module) -> None:
    """Load the weights of the checkpoint in `path` into a whole model, in one process alone."""
    _load_alone(path, {"model": model.state_dict()})


def load_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some weights of the checkpoint in `path` in full, by the model's names, in one process alone."""
    stored = tensors_in(path)
    loaded = load_tensors(path, {f"model.{name}": stored[f"model.{name}"] for name in names})
    return {name: loaded[f"model.{name}"] for name in names}


def tensors_in(path: Path) -> dict[str, TensorStorageMetadata]:
    """Shapes and types of all tensors in the checkpoint, by full name (`model.…`, `optimizer.state.…`).

    Raises OSError, or ValueError where the checkpoint's record of them is damaged.
    """
    entries = _Reader(path).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def load_tensors(path: Path, wanted: Mapping[str, TensorStorageMetadata]) -> dict[str, Tensor]:
    """Some tensors in full, by full name, in one process alone."""
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in wanted.items()}
    _load_alone(path, dict(tensors))
    return tensors


def _load_alone(path: Path, into: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what was asked for
        dcp.load(into, storage_reader=_Reader(path), planner=_LoadPlanner(), no_dist=True)


def _each(parts: Sequence[Part]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [get_state_dict(model, optimizer, options=_OPTIONS) for model, optimizer in parts]


def _together(each: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> States:
    return {
        "model": {name: value for weights, _ in each for name, value in weights.items()},
        "optimizer": {name: value for _, moments in each for name, value in moments.items() if _is_moment(name)},
    }


def _is_moment(name: str) -> bool:
    return not name.startswith("param_groups.")


# Errors that damaged pickles raise; MemoryError comes from a stored length that is larger than the memory.
_UNPICKLING = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ImportError),
    *(MemoryError, OverflowError, RecursionError, RuntimeError, AssertionError),
)


class _LoadPlanner(DefaultLoadPlanner):
    """Loads objects that are no tensors with `weights_only`: torch's own planner would run any code in them."""

    def load_bytes(self, read_item: Any, value: Any) -> None:
        path = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, path, torch.load(value, weights_only=True))


class _Reader(dcp.FileSystemReader):
    """Reads `.metadata`, which torch pickles, without the power to call anything but the record classes in it."""

    def read_metadata(self, *_arguments: Any, **_names: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        with path.open("rb") as stream:
            try:
                metadata = _Unpickler(stream).load()
            except _UNPICKLING as error:
                raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
        fields = vars(metadata) if isinstance(metadata, Metadata) else {}  # a made-up one may lack some
        storage = fields.get("storage_meta")
        if not isinstance(fields.get("state_dict_metadata"), dict) or not isinstance(storage, StorageMeta):
            raise ValueError(f"{path} is no record of a distributed checkpoint")
        storage.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's .metadata")
