"""A folder of safetensors files with an index, as Hugging Face splits them: read and written tensor by tensor."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.model.weights_file import DTYPE_NAMES, WeightsFile

SHARD = 5 * 10**9  # bytes of a file
INDEX = "model.safetensors.index.json"
_ERRORS = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class Shards:
    """The tensors of a folder, by name. Raises UserError where files are missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sizes = folder, dict[str, tuple[int, ...]]()
        self._files = dict[str, Path]()
        self._types = dict[str, str]()
        for path in _files(folder):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118
                        part = file.get_slice(name)
                        self.sizes[name], self._types[name] = tuple(part.get_shape()), part.get_dtype()
                        self._files[name] = path
            except _ERRORS as error:
                raise UserError(f"{path} cannot be read ({error}); copy it anew") from None

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor; that of fp32 where it is not there, for its absence is named elsewhere."""
        stored = self._types.get(name, "F32")
        if stored not in _DTYPES:
            raise UserError(f"{self.folder}: {name} is of type {stored}; give weights of {', '.join(_DTYPES)}")
        return _DTYPES[stored]

    def tensor(self, name: str) -> Tensor:
        path = self._files[name]
        self.dtype(name)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except _ERRORS as error:
            raise UserError(f"{path} cannot be read ({error}); copy it anew") from None


def _files(folder: Path) -> list[Path]:
    """The files that the index names, all where there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        why = "its .bin files are pickles, which can run code" if pickled else "weights in other forms are not read"
        raise UserError(f"{folder} holds no .safetensors file; {why}, convert them first")
    index = folder / INDEX
    if not index.exists():
        return files
    try:
        named = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} cannot be read ({type(error).__name__}: {error}); copy it anew") from None
    if missing := sorted(named - {path.name for path in files}):
        raise UserError(f"{folder}: {missing[0]} is missing, which {index.name} names; copy it there")
    return [path for path in files if path.name in named]


def write_shards(folder: Path, names: Sequence[str], tensor: Callable[[str], Tensor]) -> None:
    """Write tensors into files of at most SHARD bytes (a larger tensor stays alone), with an index where they are more.

    tensor: gives a tensor by name; it is called twice for each, and only one is held at a time.
    """
    shards, room = list[dict[str, Tensor]](), 0
    for name in names:
        like = tensor(name).to("meta")
        if not shards or like.nbytes > room:
            shards.append({})
            room = SHARD
        shards[-1][name] = like
        room -= like.nbytes
    weight_map, total = dict[str, str](), 0
    for number, likes in enumerate(shards, 1):
        only = len(shards) == 1
        path = folder / ("model.safetensors" if only else f"model-{number:05}-of-{len(shards):05}.safetensors")
        with WeightsFile(path, likes, {"format": "pt"}) as file:
            for name in file.order:
                file.write(name, tensor(name))
        weight_map |= dict.fromkeys(likes, path.name)
        total += sum(like.nbytes for like in likes.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
