"""Log-probabilities of completions under any mixture of adapters, and the backward pass through them.

A loss is a sum over completion tokens whose weights its objective fixes before the first pass. So it does not matter
which sequences share a pass: passes are packed by length across all tasks of all tenants, and one tenant's batch cannot
change another's loss. Logits exist for one chunk of tokens at a time (head_scores.py).

Completions of the same prompt share its computation (packing.py). Rows of one sequence are padded on the right and get
no attention mask: a causal model looks at no later position, so padding cannot reach a token that counts, and
attention takes its fastest kernel.

Nothing here samples, knows rewards, or moves a vector.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor

from adapters.apply.trainable import TrainableAdapters
from server.training.worker.activation_checkpointing import activation_checkpointing
from server.training.worker.base_model import logit_shape
from server.training.worker.head_scores import head_scores
from server.training.worker.packing import (
    TokenSequence,
    additive,
    max_shared_row_tokens,
    next_pass,
    pack_rows,
    row_tokens,
    scored_mask,
)
from server.training.worker.pass_size import DEFAULT_LIMITS, PassSizes
from server.training.worker.token_scores import TokenScores, joined, select


class Summable(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


T = TypeVar("T")
M = TypeVar("M", bound=Summable)
_CoM = TypeVar("_CoM", bound=Summable, covariant=True)


class Objective(Protocol[_CoM]):
    """The loss of one batch, as a sum over its sequences, with metrics that add up over passes.

    rows:      indices of the sequences with a gradient; the others are never run.
    with_base: whether the loss needs the base model's log-probabilities.
    start:     the metrics before the first pass; those of every pass are added to it.
    """

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def with_base(self) -> bool: ...
    @property
    def start(self) -> _CoM: ...
    def __call__(
        self, rows: Sequence[int], tokens: TokenScores, base_logprobs_BC: Tensor | None
    ) -> tuple[Tensor, _CoM]:
        """The summand of the loss (a scalar) for the sequences `rows` of the batch, and their metrics.

        `tokens` and base_logprobs_BC (float32, None without `with_base`) have one row for each of `rows`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Task(Generic[M]):
    """A batch and its loss; normally of one adapter and one tenant."""

    batch: Sequence[TokenSequence]
    objective: Objective[M]


@dataclass(frozen=True, slots=True)
class MicroBatch(Generic[M]):
    """Some rows of an objective, run behind others of it; `start` has the metrics of those."""

    objective: Objective[M]
    rows: Sequence[int]
    start: M

    @property
    def with_base(self) -> bool:
        return self.objective.with_base

    def __call__(self, rows: Sequence[int], tokens: TokenScores, base_logprobs_BC: Tensor | None) -> tuple[Tensor, M]:
        return self.objective(rows, tokens, base_logprobs_BC)


def micro_batches(batch: Sequence[TokenSequence], rows: Iterable[int], most_tokens: int) -> list[list[int]]:
    """`rows` cut into lists of at most `most_tokens` tokens each; a longer sequence has a list of its own."""
    result: list[list[int]] = []
    tokens = 0
    for row in rows:
        tokens += len(batch[row])
        if not result or tokens > most_tokens:
            result.append([])
            tokens = len(batch[row])
        result[-1].append(row)
    return result


def forward_backward(model: TrainableAdapters, tasks: Sequence[Task[M]], sizes: PassSizes = DEFAULT_LIMITS) -> list[M]:
    """Add the gradient of every task's loss to `vector(handle).grad` of its adapters; returns the metrics of each task.

    ValueError for an empty prompt, AdapterError for a model whose head is no plain linear, DoesNotFit for a sequence
    that is too long for the device's memory. Gradients of passes before the error stay.
    """
    places = [(number, row) for number, task in enumerate(tasks) for row in task.objective.rows]
    sequences = [tasks[number].batch[row] for number, row in places]

    def one_pass(together: list[list[int]]) -> list[tuple[int, M]]:
        """The metrics of a pass over these rows of `sequences`, by the number of the task."""
        # `rows` of the model are the rows of the pass; its sequences are in the order of their tasks.
        indices = sorted(index for row in together for index in row)
        chosen, batch = [places[index] for index in indices], [sequences[index] for index in indices]
        together = _renumbered(together, indices)
        base_logprobs_BC = None
        if any(tasks[number].objective.with_base for number, _ in chosen):
            # Outside `rows` the model is the base model.
            with torch.no_grad():
                base_logprobs_BC = _run(model, batch, together, sizes.logits).logprobs_BC
        handles = {sequence.adapter for sequence in batch}
        with model.gradients_kept_on_error(handles), model.rows([batch[row[0]].adapter for row in together]):
            tokens = _run(model, batch, together, sizes.logits)
            losses, measured = [], []
            for number in dict.fromkeys(number for number, _ in chosen):
                where = [place for place, (other, _) in enumerate(chosen) if other == number]
                loss, metrics = tasks[number].objective(
                    [chosen[place][1] for place in where],
                    select(tokens, where),
                    None if base_logprobs_BC is None else base_logprobs_BC[where],
                )
                losses.append(loss)
                measured.append((number, metrics))
            torch.autograd.backward(losses)
        return measured

    result = [task.objective.start for task in tasks]
    for _, measured in in_passes(model, sequences, sizes, one_pass, gradient=True):
        for number, metrics in measured:
            result[number] = result[number] + metrics
    return result


def score(model: TrainableAdapters, batch: Sequence[TokenSequence], sizes: PassSizes = DEFAULT_LIMITS) -> TokenScores:
    """The scores of the whole batch (at least one sequence), without gradients. Raises as `forward_backward`."""

    def one_pass(together: list[list[int]]) -> TokenScores:
        indices = [index for row in together for index in row]
        chosen, together = [batch[index] for index in indices], _renumbered(together, indices)
        with torch.no_grad(), model.rows([chosen[row[0]].adapter for row in together]):
            return _run(model, chosen, together, sizes.logits)

    parts: list[TokenScores] = []
    order: list[int] = []
    for together, part in in_passes(model, batch, sizes, one_pass, gradient=False):
        parts.append(part)
        order += [index for row in together for index in row]
    return select(joined(parts), sorted(range(len(order)), key=order.__getitem__))


def in_passes(
    model: TrainableAdapters,
    batch: Sequence[TokenSequence],
    sizes: PassSizes,
    one_pass: Callable[[list[list[int]]], T],
    *,
    gradient: bool,
) -> Iterator[tuple[list[list[int]], T]]:
    """The rows of each pass, as lists of indices of `batch`, and what `one_pass` returned for them.

    Each pass is packed from what is left when it begins, so that it may be of another size than the one before.
    """
    if any(not sequence.prompt for sequence in batch):
        raise ValueError("a prompt must have at least one token: nothing predicts the first token of a sequence")
    shared_tokens = max_shared_row_tokens(model.model)
    waiting = list(range(len(batch)))
    sizes.begin()
    while waiting:
        left = [batch[index] for index in waiting]
        longest = max(map(len, left))
        plan = sizes.plan(longest, sum(map(len, left)))
        rows = next_pass(left, plan.tokens, shared_tokens)
        together = [[waiting[place] for place in row] for row in rows]
        tokens = len(rows) * max(row_tokens(left, row) for row in rows)
        with activation_checkpointing(model.model, plan.checkpointing and gradient):
            result = sizes.attempt(plan, tokens, longest, partial(one_pass, together), gradient=gradient)
        if result is None:
            continue
        yield together, result
        done = {index for row in together for index in row}
        waiting = [index for index in waiting if index not in done]


def _run(
    model: TrainableAdapters, batch: Sequence[TokenSequence], together: Sequence[Sequence[int]], most_logits: int
) -> TokenScores:
    """One pass over `batch` packed into the rows `together` (lists of indices); `model.rows` has set their adapters."""
    causal_lm = cast(Any, model.model)
    device = causal_lm.device
    rows = pack_rows(batch, together)
    mask_BC = scored_mask(batch)
    sequence_N, _ = mask_BC.nonzero(as_tuple=True)
    before_N, target_N = rows.before_BC[mask_BC], torch.tensor([t for one in batch for t in one.scored_tokens]).long()
    temperature_N = torch.tensor([sequence.temperature for sequence in batch], device=device)[sequence_N.to(device)]

    inputs = {"input_ids": rows.ids_PT.to(device)}
    if rows.positions_PT is not None and rows.mask_P1TT is not None:
        inputs["position_ids"] = rows.positions_PT.to(device)
        inputs["attention_mask"] = additive(rows.mask_P1TT, causal_lm.dtype, device)
    hidden_PTD = causal_lm.get_decoder()(**inputs, use_cache=False).last_hidden_state
    head = causal_lm.get_output_embeddings()
    hidden_ND = hidden_PTD[rows.row_B[sequence_N].to(hidden_PTD.device), before_N.to(hidden_PTD.device)]
    # Of a model on several GPUs the last layer, the head and the first layer may be on three.
    device = head.weight.device
    logprobs_N, entropy_N, hits_N = head_scores(
        head, logit_shape(causal_lm), hidden_ND.to(device), target_N.to(device), temperature_N.to(device), most_logits
    )
    mask_BC = mask_BC.to(device)

    def padded(values_N: Tensor) -> Tensor:
        return torch.zeros(mask_BC.shape, dtype=values_N.dtype, device=device).masked_scatter(mask_BC, values_N)

    return TokenScores(padded(logprobs_N), padded(entropy_N), padded(hits_N), mask_BC)


def _renumbered(together: Sequence[Sequence[int]], indices: Sequence[int]) -> list[list[int]]:
    """The rows with every index replaced by its place in `indices`."""
    place = {index: number for number, index in enumerate(indices)}
    return [[place[index] for index in row] for row in together]
