"""Counts the peak bytes of a rank's tensors, and the bytes of its collectives, op by op."""

import collections
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Op -> (name, which argument is what every rank ends with, or starts with, as a whole).
COLLECTIVES = {
    "_allgather_base_": ("gather", 0),
    "all_gather_into_tensor": ("gather", None),
    "_reduce_scatter_base_": ("scatter", 1),
    "reduce_scatter_tensor": ("scatter", 0),
    "allreduce_": ("all_reduce", 0),
    "all_reduce": ("all_reduce", 0),
    "alltoall_base_": ("all_to_all", 1),
    "send": ("send", 0),
}


class Tracker(TorchDispatchMode):
    """Bytes of all live tensors seen inside it, the most there ever were, and bytes of collectives by name.

    A tensor that was made before is counted once it is used. A fake tensor has the bytes that a real one would have;
    wrappers such as DTensor have none of their own.
    """

    def __init__(self, smallest: int = 0) -> None:
        super().__init__()
        self.smallest = smallest  # collectives of fewer bytes are figures to log, not traffic
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0
        self.carried: collections.Counter[str] = collections.Counter()
        self.phases: dict[str, int] = {}

    def phase(self, name: str) -> None:
        """Begin a new peak; the last one is kept under `name`."""
        self.phases[name] = max(self.peak, self.phases.get(name, 0))
        self.peak = self.live

    def __enter__(self) -> "Tracker":
        self._resize = torch.UntypedStorage.resize_
        tracker, resize = self, self._resize

        def counted(storage: torch.UntypedStorage, size: int) -> Any:  # FSDP2 empties and fills storages so
            result = resize(storage, size)
            tracker._see(storage)
            return result

        torch.UntypedStorage.resize_ = counted  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # let it become the ops on local tensors that it stands for
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if type(leaf) in (torch.Tensor, torch.nn.Parameter, FakeTensor) and leaf.device.type != "meta":
                self._see(leaf.untyped_storage())
        self._count(func, args, out)
        return out

    def _count(self, func: Any, args: Any, out: Any) -> None:
        name = func._schema.name.rpartition("::")[2]
        if name in COLLECTIVES and func._schema.name.startswith(("c10d::", "_c10d_functional::")):
            kind, position = COLLECTIVES[name]
            whole = out if position is None else args[position]
            size = sum(t.numel() * t.element_size() for t in tree_leaves(whole) if isinstance(t, torch.Tensor))
            if size >= self.smallest:
                self.carried[kind] += size

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.sizes:
            weakref.finalize(storage, self._gone, key)
        self.live += size - self.sizes.get(key, 0)
        self.sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)
