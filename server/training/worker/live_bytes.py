"""How many bytes of tensors there are while something runs, on any device, the one without data ("meta") included.

It counts what operators allocate as their results, from when the result is made until nothing refers to it, autograd
included. What kernels allocate for themselves and free again is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts inside `with`. now: bytes of tensors that were made inside and still exist. peak: the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._count(tensor, args, kwargs)
        return results

    def _count(self, tensor: Tensor, args: Sequence[Any], kwargs: Any) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        # Counted already, or a view of what there was before.
        if key in self._sizes or any(
            isinstance(given, Tensor) and given.untyped_storage() is storage for given in tree_leaves((args, kwargs))
        ):
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
