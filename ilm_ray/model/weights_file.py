"""Writes a safetensors file a tensor at a time, so that nobody holds the whole model."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def order_of(like: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors as they lie in a file, which is the library's order: wide types first, then by name."""
    return sorted(like, key=lambda name: (-like[name].element_size(), name))


class WeightsFile:
    """`with WeightsFile(path, like, about) as out: out.write(name, tensor)` for each of `out.order`, in that order.

    like: name -> tensor of the right shape and type, on the meta device or any other; about: the header's metadata.
    The bytes are those of `safetensors.torch.save_file`, except that the metadata is sorted: the library writes it in
    random order, and a stage whose bytes change is run again with all that depends on it. The file appears when all is
    written.
    Format: https://huggingface.co/docs/safetensors (header's length, header, tensors).
    """

    def __init__(self, path: Path, like: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        self.path, self._temporary = path, path.with_name(f".{path.name}.tmp")
        self.order = order_of(like)
        self._like, self._written = like, 0
        header: dict[str, Any] = {"__metadata__": dict(sorted(about.items()))}
        end = 0
        for name in self.order:
            tensor, start = like[name], end
            end += tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        self._header = text.ljust(-(-len(text) // 8) * 8)

    def __enter__(self) -> "WeightsFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._out = self._temporary.open("wb")
        self._out.write(len(self._header).to_bytes(8, "little") + self._header)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor of `order`. Raises ValueError for another one, or one of another shape or type."""
        expected = self.order[self._written] if self._written < len(self.order) else None
        like = self._like.get(name)
        if name != expected or like is None or (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{self.path}: {expected} comes next, not {name} {tuple(tensor.shape)} {tensor.dtype}")
        self._out.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._out.close()
        if error is not None:
            self._temporary.unlink(missing_ok=True)
            return
        if self._written < len(self.order):
            raise ValueError(f"{self.path}: {len(self.order) - self._written} tensors were not written")
        self._temporary.replace(self.path)
