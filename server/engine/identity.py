"""The identity of an adapter towards the engine: its content, and no client's name for it.

vLLM takes two LoRARequests for the same adapter when their names are equal, and a batch tells adapters apart by their
numbers. So a request to the engine is named by the SHA-256 of the adapter's content and by a number that no other
content has, and every request in flight with that content uses the same one. What a client calls the adapter stays in
the API process.

Design decision: numbers are handed out in turn and remembered, not computed from the content. vLLM's are 31 bits long:
among 65,000 adapters two computed ones would more likely than not be the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from vllm.lora.request import LoRARequest

from adapters.vector.adapter import Adapter

# vLLM's mapping of tokens to adapters is int32.
MAX_LORA_ID = 2**31 - 1
# What is kept of adapters that nothing runs with, so that their next request finds its computed prefix again.
MAX_IDLE_BYTES = 64 * 2**20
# A LoRARequest, its name and the two entries, without the form.
ENTRY_BYTES = 512


@dataclass(slots=True)
class _Identity:
    request: LoRARequest
    holders: int = 0

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.request.lora_path)


class EngineIdentities:
    """One LoRARequest per content. It is never forgotten while anything runs with it; idle ones are, oldest first,
    beyond `max_idle_bytes`.
    """

    def __init__(self, *, max_idle_bytes: int = MAX_IDLE_BYTES, max_id: int = MAX_LORA_ID) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._max_id = max_id
        self._numbers = count()
        self._by_digest: dict[str, _Identity] = {}
        self._used_ids: set[int] = set()
        self._idle: OrderedDict[str, _Identity] = OrderedDict()
        self._idle_bytes = 0

    @contextmanager
    def hold(self, adapter: Adapter, form: str) -> Iterator[LoRARequest]:
        """The LoRARequest to run `adapter` with, whose form for the engine is `form`, as long as the block lasts."""
        digest = adapter.digest
        identity = self._by_digest.get(digest)
        if identity is None:
            identity = self._by_digest[digest] = self._new(digest, form)
        elif not identity.holders:
            del self._idle[digest]
            self._idle_bytes -= identity.size
        identity.holders += 1
        try:
            yield identity.request
        finally:
            identity.holders -= 1
            if not identity.holders:
                self._idle[digest] = identity
                self._idle_bytes += identity.size
                self._forget_oldest()

    def __len__(self) -> int:
        """How many contents are remembered."""
        return len(self._by_digest)

    @property
    def idle_bytes(self) -> int:
        """Memory of those that nothing runs with."""
        return self._idle_bytes

    def _new(self, digest: str, form: str) -> _Identity:
        lora_id = self._next_id()
        while lora_id in self._used_ids:
            lora_id = self._next_id()
        self._used_ids.add(lora_id)
        # With the number in its name, a content that comes back under another one is another adapter to vLLM, even if
        # the engine still runs a request that was just given up.
        return _Identity(LoRARequest(f"{digest}.{lora_id}", lora_id, form))

    def _next_id(self) -> int:
        return next(self._numbers) % self._max_id + 1

    def _forget_oldest(self) -> None:
        while self._idle_bytes > self._max_idle_bytes:
            digest, identity = self._idle.popitem(last=False)
            self._idle_bytes -= identity.size
            self._used_ids.discard(identity.request.lora_int_id)
            del self._by_digest[digest]
