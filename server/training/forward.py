"""Log-probabilities of completions under any mixture of adapters, and the backward pass through them.

Design decision: a loss is a sum over completion tokens whose weights its objective fixes before the first pass. Then it
does not matter which sequences share a pass, so passes are packed by length across all tasks, whoever they belong to,
and one tenant's batch cannot change another's loss. Logits exist for one chunk of tokens at a time, and again for that
chunk in the backward pass.

Sequences are padded on the right and get no attention mask: a causal model looks at no later position, so padding
cannot reach a token that counts, and attention takes its fastest kernel.

It draws no samples, knows no rewards and moves no vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from adapters.errors import AdapterError
from adapters.trainable import TrainableAdapters

_SCALED_LOGITS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier", "final_logit_softcapping")


@dataclass(frozen=True, slots=True)
class PassLimits:
    """What bounds memory.

    tokens: in one pass, padding included; a longer sequence has a pass to itself.
    logits: at a time, in float32 (256 MiB by default; the backward pass holds a few copies).
    """

    tokens: int = 2**14
    logits: int = 2**26


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt (at least one token) and its completion, the part that is scored, as token ids.

    adapter:     the handle in TrainableAdapters, or BASE.
    temperature: of the sampler; log-probabilities are of logits / temperature.
    """

    adapter: int
    prompt: Sequence[int]
    completion: Sequence[int]
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the model says of the completion tokens of B sequences, (B, C), C the longest completion; zero in padding.

    logprobs_BC: float32, natural logarithm of each token's probability at the sequence's temperature.
    entropy_BC:  float32, nats, of the distribution the token was drawn from; no gradient.
    hits_BC:     bool, the token is the most probable one.
    mask_BC:     bool, True for tokens, False for padding.
    """

    logprobs_BC: Tensor
    entropy_BC: Tensor
    hits_BC: Tensor
    mask_BC: Tensor


class Summable(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


M = TypeVar("M", bound=Summable)
_CoM = TypeVar("_CoM", bound=Summable, covariant=True)


class Objective(Protocol[_CoM]):
    """A loss of one batch, a sum over its sequences, and what it measures on the way.

    rows:      the sequences with a gradient; the others are never run.
    with_base: whether it wants the base model's log-probabilities.
    start:     metrics before the first pass; those of every pass are added.
    """

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def with_base(self) -> bool: ...
    @property
    def start(self) -> _CoM: ...
    def __call__(self, rows: Sequence[int], tokens: Tokens, base_logprobs_BC: Tensor | None) -> tuple[Tensor, _CoM]:
        """The part of the loss that the sequences `rows` of the batch make up, and their metrics."""
        ...


@dataclass(frozen=True, slots=True)
class Task(Generic[M]):
    """A batch and its objective; normally of one adapter and one tenant."""

    batch: Sequence[TokenSequence]
    objective: Objective[M]


def forward_backward(model: TrainableAdapters, tasks: Sequence[Task[M]], limits: PassLimits = PassLimits()) -> list[M]:
    """Add the gradient of every task's loss to its adapters' `vector(handle).grad`; returns the metrics per task."""
    metrics = [task.objective.start for task in tasks]
    places = [(number, row) for number, task in enumerate(tasks) for row in task.objective.rows]
    lengths = [len(tasks[number].batch[row]) for number, row in places]
    for indices in _passes(lengths, limits.tokens):
        chosen = sorted(places[index] for index in indices)
        batch = [tasks[number].batch[row] for number, row in chosen]
        base_logprobs_BC = None
        if any(tasks[number].objective.with_base for number, _ in chosen):
            # Outside `rows` the model is the base model.
            with torch.no_grad():
                base_logprobs_BC = _run(model, batch, limits).logprobs_BC
        with model.rows([sequence.adapter for sequence in batch]):
            tokens = _run(model, batch, limits)
            losses = []
            for number in dict.fromkeys(number for number, _ in chosen):
                where = [place for place, (other, _) in enumerate(chosen) if other == number]
                loss, measured = tasks[number].objective(
                    [chosen[place][1] for place in where],
                    _select(tokens, where),
                    None if base_logprobs_BC is None else base_logprobs_BC[where],
                )
                losses.append(loss)
                metrics[number] = metrics[number] + measured
            torch.autograd.backward(losses)
    return metrics


def score(model: TrainableAdapters, batch: Sequence[TokenSequence], limits: PassLimits = PassLimits()) -> Tokens:
    """The whole batch (at least one sequence) without gradients, in as many passes as that takes."""
    longest = max(len(sequence.completion) for sequence in batch)
    parts: list[Tokens] = []
    order: list[int] = []
    for indices in _passes([len(sequence) for sequence in batch], limits.tokens):
        chosen = [batch[index] for index in indices]
        with torch.no_grad(), model.rows([sequence.adapter for sequence in chosen]):
            parts.append(_run(model, chosen, limits))
        order += indices
    place = sorted(range(len(order)), key=order.__getitem__)

    def joined(name: str) -> Tensor:
        parts_BC = [getattr(part, name) for part in parts]
        return torch.cat([nn.functional.pad(part_BC, (0, longest - part_BC.shape[1])) for part_BC in parts_BC])[place]

    return Tokens(joined("logprobs_BC"), joined("entropy_BC"), joined("hits_BC"), joined("mask_BC"))


def _run(model: TrainableAdapters, batch: Sequence[TokenSequence], limits: PassLimits) -> Tokens:
    """One pass, with the adapters that `model.rows` says."""
    if any(not sequence.prompt for sequence in batch):
        raise ValueError("a prompt must have at least one token: nothing predicts the first token of a sequence")
    causal_lm = cast(Any, model.model)
    _refuse_scaled_logits(causal_lm)
    device = causal_lm.device
    ids_BT = pad_sequence(
        [torch.tensor([*sequence.prompt, *sequence.completion]) for sequence in batch], batch_first=True
    ).to(device)
    lengths_B = torch.tensor([len(sequence.completion) for sequence in batch])
    mask_BC = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    row_N, column_N = (index.to(device) for index in mask_BC.nonzero(as_tuple=True))
    start_B = torch.tensor([len(sequence.prompt) for sequence in batch], device=device)
    position_N = start_B[row_N] + column_N
    temperature_N = torch.tensor([sequence.temperature for sequence in batch], device=device)[row_N]

    hidden_BTD = causal_lm.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
    hidden_ND, target_N = hidden_BTD[row_N, position_N - 1], ids_BT[row_N, position_N]
    head = causal_lm.get_output_embeddings()
    size = max(1, limits.logits // head.weight.shape[0])
    chunks = [
        checkpoint(partial(_token_chunk, head), *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(*(torch.split(part, size) for part in (hidden_ND, target_N, temperature_N)), strict=True)
    ]
    mask_BC = mask_BC.to(device)

    def padded(values_N: Tensor) -> Tensor:
        return torch.zeros(mask_BC.shape, dtype=values_N.dtype, device=device).masked_scatter(mask_BC, values_N)

    logprobs_N, entropy_N, hits_N = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return Tokens(padded(logprobs_N), padded(entropy_N), padded(hits_N), mask_BC)


def _token_chunk(
    head: nn.Module, hidden_ND: Tensor, target_N: Tensor, temperature_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    logits_NV = head(hidden_ND).float() / temperature_N[:, None]
    normaliser_N = logits_NV.logsumexp(-1)
    with torch.no_grad():
        entropy_N = normaliser_N - (logits_NV.softmax(-1) * logits_NV).sum(-1)
        hits_N = logits_NV.argmax(-1) == target_N
    return logits_NV.gather(-1, target_N[:, None])[:, 0] - normaliser_N, entropy_N, hits_N


def _passes(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of sequences, longest first, cut so that the number of sequences times the longest stays in the limit."""
    result: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not result or (len(result[-1]) + 1) * lengths[result[-1][0]] > max_tokens:
            result.append([])
        result[-1].append(index)
    return result


def _select(tokens: Tokens, rows: list[int]) -> Tokens:
    return Tokens(tokens.logprobs_BC[rows], tokens.entropy_BC[rows], tokens.hits_BC[rows], tokens.mask_BC[rows])


def _refuse_scaled_logits(causal_lm: Any) -> None:
    for name in _SCALED_LOGITS:
        if getattr(causal_lm.config, name, None) not in (None, 1):
            raise AdapterError(f"models that change their logits after the head ({name}) cannot be trained on")
