"""Log-probabilities of an answer by transformers, with one adapter at a time and nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from adapters.apply.reconstruct import matrices
from adapters.factors.build import find_or_build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from tests.e2e.chaos.world import Answer

# transformers and vLLM differ by 1e-4 in float32; two adapters of the operations by tenths and more.
TOLERANCE = 5e-3


class Reference:
    """The base model in float32, each linear with factors followed by `+ U S R V^T x`."""

    def __init__(self, model: Path, factors: Factors) -> None:
        self._factors = factors
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._matrices_MRR = torch.zeros(len(factors.modules), factors.rank, factors.rank)
        for index, name in enumerate(factors.modules):
            self._add_delta(self._model.get_submodule(name), index, *factors.triplet(name))

    def _add_delta(self, linear: nn.Module, index: int, u_OR: Tensor, s_R: Tensor, v_IR: Tensor) -> None:
        scaled_OR = u_OR * s_R

        def add(_module: nn.Module, inputs: tuple[Tensor, ...], y_PTO: Tensor) -> Tensor:
            return y_PTO + inputs[0] @ v_IR @ self._matrices_MRR[index].T @ scaled_OR.T

        linear.register_forward_hook(add)

    @torch.inference_mode()
    def logprobs(self, vector_G: Tensor | None, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Of each of `tokens` after `prompt`; `vector_G` has 13 numbers, None is the base model."""
        values_GU = torch.zeros(13, 1) if vector_G is None else vector_G.float()[:, None]
        adapter = Adapter.from_vector(values_GU, Recipe(), self._factors.digest, "float32")
        self._matrices_MRR = matrices(adapter, self._factors)
        ids = torch.tensor([[*prompt, *tokens]])
        logits_TV = self._model(input_ids=ids, logits_to_keep=len(tokens) + 1).logits[0, :-1]
        logprobs_TV = logits_TV.log_softmax(-1)
        return logprobs_TV.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


class Comparison:
    """Answers against what their own adapter says alone, and now and then against another one's."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._last: Tensor | None = None
        self.compared = 0
        self.worst = 0.0
        self.tried_others = 0
        self.told_apart = 0

    @classmethod
    def of(cls, model: Path) -> Comparison:
        """With the factors that the server made of `model`."""
        torch.set_num_threads(1)  # the engine has the other core
        return cls(Reference(model, find_or_build_factors(str(model), rank=2, kind="svd")))

    def check(self, answer: Answer) -> None:
        """AssertionError where the answer is not its adapter's."""
        expected = self._reference.logprobs(answer.vector, answer.prompt, answer.tokens)
        difference = distance(answer.logprobs, expected)
        assert difference < TOLERANCE, f"{answer.asked}: {answer.logprobs}, alone {expected}"
        self.worst = max(self.worst, difference)
        self.compared += 1
        if self._last is not None and self.compared % 5 == 0:
            other = self._reference.logprobs(self._last, answer.prompt, answer.tokens)
            self.tried_others += 1
            self.told_apart += distance(answer.logprobs, other) > 10 * TOLERANCE
        self._last = answer.vector


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference."""
    return max(abs(x - y) for x, y in zip(one, other, strict=True))
