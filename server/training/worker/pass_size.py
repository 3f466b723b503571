"""How many tokens go through the model in one pass: as many as fit into the memory that is left on its device.

Before the first pass a formula says how much memory a pass takes (memory.py), and the pass is half as large as would
fit then. What it really took corrects the formula, and the next ones take what is left, which is asked for before each:
other processes, the serving engine among them, may be on the device too. Where not even the longest sequence fits, or
passes would be so small that the device idles, activations are computed again in the backward pass
(activation_checkpointing.py). A pass that does not fit after all is run again as two. A sequence that does not fit
alone is an error that says so, and whether it would fit once other processes left the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
import torch
from accelerate.utils.memory import clear_device_cache

from server.core.host_memory import gib
from server.training.worker.activation_checkpointing import checkpointed_layers
from server.training.worker.device_memory import ADVICE, DeviceMemory
from server.training.worker.memory import LOGITS, pass_bytes, weights_bytes

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Of what is left, for passes: the rest is for what allocators lose and other processes take meanwhile. Every pass that
# does not fit lowers it by a tenth.
SHARE = 0.9
# What the formula may be wrong by before something was measured, and how far measurements may correct it downwards:
# the next batch may have more of its tokens scored.
GUESS, LEAST_FACTOR = 1.2, 0.8
# What the CUDA runtime, cuBLAS and cuDNN, and PyTorch's allocator on a CPU say when memory is full.
OUT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")
# Smaller passes leave a device idle, so that computing activations again, in larger ones, is no slower.
LEAST_TOKENS = {"cuda": 512, "cpu": 64}


class DoesNotFit(Exception):
    """A model, or one sequence of a job, does not fit into the device's memory. The message is for the job's owner."""


class DoesNotFitNow(DoesNotFit):
    """It would, were it not for what other processes have of that memory: another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class PassPlan:
    """tokens: most in the pass, padding included; a longer sequence has a pass to itself.
    checkpointing: whether activations are computed again."""

    tokens: int
    checkpointing: bool = False


class PassSizes(Protocol):
    """Decides how large passes are. logits: numbers of logits that exist at a time, in float32."""

    @property
    def logits(self) -> int: ...
    def begin(self) -> None:
        """New passes follow, for another batch."""
        ...

    def plan(self, longest: int, total: int) -> PassPlan:
        """The next pass, of sequences of `total` tokens together and at most `longest` each. Raises DoesNotFit."""
        ...

    def attempt(self, plan: PassPlan, tokens: int, longest: int, run: Callable[[], T], *, gradient: bool) -> T | None:
        """What `run`, a pass of `tokens` tokens in rows, returns; None when it did not fit: plan again."""
        ...


@dataclass(frozen=True, slots=True)
class PassLimits:
    """Sizes that do not depend on the device's memory, and the most that any other sizes may be."""

    tokens: int = 2**14
    logits: int = LOGITS

    def begin(self) -> None:
        pass

    def plan(self, longest: int, total: int) -> PassPlan:
        return PassPlan(self.tokens)

    def attempt(self, plan: PassPlan, tokens: int, longest: int, run: Callable[[], T], *, gradient: bool) -> T | None:
        return run()


DEFAULT_LIMITS = PassLimits()


@dataclass(slots=True)
class _Measured:
    """The largest pass that was measured, and how much it took, as a multiple of what the formula says."""

    tokens: int
    factor: float


class FittingPasses:
    """Passes of `model` that fit into `memory`, and stay within `limits`."""

    def __init__(self, limits: PassLimits, model: torch.nn.Module, memory: DeviceMemory) -> None:
        causal_lm: Any = model
        config, dtype = causal_lm.config, causal_lm.dtype
        self._device_type: str = causal_lm.device.type
        self._limits, self._memory = limits, memory
        self._modes = (False, True) if checkpointed_layers(model) else (False,)
        self._formula = {mode: pass_bytes(config, dtype, mode) for mode in self._modes}
        self._measured: dict[bool, _Measured] = {}
        self._share = SHARE
        # Tokens that are known not to fit, for the batch at hand: what is left changes.
        self._too_many: dict[bool, int] = {}

    @property
    def logits(self) -> int:
        return self._limits.logits

    def begin(self) -> None:
        self._too_many = {}

    def plan(self, longest: int, total: int) -> PassPlan:
        available = self._memory.available()
        least = LEAST_TOKENS[self._device_type]
        enough = max(longest, min(least, self._limits.tokens, total))
        fitting = {mode: self._tokens_in(available, mode) for mode in self._modes}
        mode = next((mode for mode in self._modes if fitting[mode] >= enough), self._modes[-1])
        if fitting[mode] >= longest:
            first = 1 if mode in self._measured else 2
            return PassPlan(max(1, min(fitting[mode] // first, self._limits.tokens)), mode)
        if self._memory.can_try and longest < self._too_many.get(mode, longest + 1):
            return PassPlan(longest, mode)
        could = self._formula[mode].tokens_in(int(self._share * max(0, self._memory.at_best()) / self._factor(mode)))
        raise (DoesNotFitNow if could >= longest else DoesNotFit)(self._sum(longest, available, mode))

    def attempt(self, plan: PassPlan, tokens: int, longest: int, run: Callable[[], T], *, gradient: bool) -> T | None:
        mode, known = plan.checkpointing, self._measured.get(plan.checkpointing)
        try:
            if not gradient or (known is not None and tokens <= known.tokens):
                return run()
            result, peak = self._memory.peak_of(run)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._learn(mode, tokens, peak)
            return result
        # Behind the handler, whose error refers to the pass's tensors.
        clear_device_cache(garbage_collection=True)
        self._too_many[mode] = tokens if tokens <= longest else max(tokens // 2, longest) + 1
        self._share *= 0.9
        log.warning("pass_did_not_fit", tokens=tokens, checkpointing=mode)
        return None

    def _tokens_in(self, available: int, mode: bool) -> int:
        size = int(self._share * max(0, available) / self._factor(mode))
        return min(self._formula[mode].tokens_in(size), self._too_many.get(mode, size + 1) - 1)

    def _factor(self, mode: bool) -> float:
        if (measured := self._measured.get(mode)) is not None:
            return measured.factor
        other = self._measured.get(not mode)
        return GUESS * (1.0 if other is None else other.factor)

    def _learn(self, mode: bool, tokens: int, peak: int) -> None:
        factor, known = max(LEAST_FACTOR, peak / self._formula[mode].of(tokens)), self._measured.get(mode)
        # Of a much smaller pass, constant parts were a larger share.
        if known is not None and tokens < 2 * known.tokens:
            factor = max(factor, known.factor)
        self._measured[mode] = _Measured(tokens, factor)
        log.info("pass_measured", tokens=tokens, bytes=peak, checkpointing=mode, factor=round(factor, 2))

    def _sum(self, longest: int, available: int, mode: bool) -> str:
        needed = gib(int(self._factor(mode) * self._formula[mode].of(longest)), 2)
        how = "with gradient checkpointing" if mode else "with this model, which has no gradient checkpointing"
        return (
            f"A sequence of {longest} tokens takes {needed} beside the model, {how}, and {gib(available, 2)} are left "
            f"on {self._memory.name}. Use shorter prompts or completions; or {ADVICE}."
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device's memory was full. Libraries and the driver take some beside PyTorch's allocator, and say so
    in their own words.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def check_weights(config: Any, dtype: torch.dtype, memory: DeviceMemory) -> None:
    """DoesNotFit when the weights of a model with this configuration do not fit into what is left of `memory`."""
    needed, available = weights_bytes(config, dtype), memory.available()
    if needed > available:
        raise DoesNotFit(
            f"The weights of the model take {gib(needed, 2)}, and {gib(available, 2)} are left on {memory.name}: "
            f"{ADVICE}."
        )
