"""An engine that really samples, from a tiny Hugging Face model with the request's vector; and that model's tokenizer.

It computes its probabilities without the code under test but for TrainableAdapters, which has tests of its own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.factors import Factors
from server.engine.grammar import Grammar
from server.engine.protocol import ServedAdapter, TokenObserver
from server.engine.template_cost import TemplateCost
from tests.adapters.tiny_models import SHAPE, load_model

NAME = "acme/tiny"
SPECIAL = ["<unk>", "<s>", "</s>", "user", "assistant", "system"]
WORDS = SPECIAL + [f"w{index}" for index in range(len(SPECIAL), SHAPE["vocab_size"])]
END = WORDS.index("</s>")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


TOOLS_TEMPLATE = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + TEMPLATE


def tiny_tokenizer(template: str = TEMPLATE, words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token per word."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


def other_tokenizer() -> PreTrainedTokenizerFast:
    """As the tiny one, but words are other tokens."""
    return tiny_tokenizer(words=[*SPECIAL[:3], *reversed(WORDS[3:])])


class SamplingEngine:
    """`received` are the requests' bodies, `told` the answers with completions; `hold` is awaited before an answer,
    `refuse` decides on an error. `end_bias` is added to the logit of the token that ends an answer, when it is drawn;
    what is told are the model's own probabilities. Without `is_readable` no tokens are a message."""

    def __init__(self, path: Path, factors: Factors) -> None:
        self.base_models = (NAME,)
        self.template_cost = TemplateCost()
        self.silent_s = 0.0
        self.why_no_tools: str | None = None
        self.constrains_all_tools = False
        self.has_thinking_budgets = False
        self.factors = factors
        self.max_model_len = SHAPE["max_position_embeddings"]
        self.chat_template_kwargs: dict[str, Any] = {}
        self.has_reasoning = False
        self.max_num_seqs = 64
        self.hold: asyncio.Event | None = None
        self.received: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.adapters: list[ServedAdapter | None] = []
        self.refused: list[int] = []
        self.end_bias = 0.0
        self.is_readable = True
        self.tokenizer = tiny_tokenizer()
        self._model = TrainableAdapters(load_model(path), factors)
        self._active: ContextVar[ServedAdapter | None] = ContextVar("active", default=None)

    def mount(self, app: FastAPI) -> None:
        app.add_api_route("/v1/completions", self._complete, methods=["POST"])
        app.add_api_route("/tokenize", self._tokenize, methods=["POST"])

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        pass

    async def why_no_grammar(self, grammar: Grammar, tenant: int) -> str | None:
        return None

    async def message_of(
        self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A message of more than one word is a call of the first tool, with its words. The first word is reasoning,
        where the engine and `kwargs` say so."""
        if not self.is_readable:
            raise ValueError("a call that does not end")
        words = _text(tokens).split()
        if self.has_reasoning and kwargs.get("enable_thinking", True):
            return {"role": "assistant", "reasoning": words[0], "content": " ".join(words[1:])}
        if len(words) < 2 or not tools:
            return {"role": "assistant", "content": " ".join(words)}
        function = {"name": tools[0]["function"]["name"], "arguments": json.dumps({"words": words})}
        call = {"id": secrets.token_hex(4), "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}

    async def check_health(self) -> None:
        pass

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        self._active.set(served)

    async def _tokenize(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"tokens": self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]}

    async def _complete(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        self.received.append(body)
        self.adapters.append(self._active.get())
        if self.hold is not None:
            await self.hold.wait()
        if self.refused:
            raise HTTPException(self.refused.pop(0), "not now", headers={"retry-after": "0"})
        if "prompt_logprobs" in body:
            return {"choices": [{"prompt_logprobs": self._score(body["prompt"])}]}
        self.told.append({"choices": self._sample(body, body["n"])})
        return self.told[-1]

    def _score(self, prompt: list[int]) -> list[dict[str, Any] | None]:
        """As vLLM tells the log-probabilities of a prompt's tokens; the first has none."""
        served = self._active.get()
        handle = BASE if served is None else self._model.add(served.adapter)
        with torch.no_grad(), self._model.rows([handle]):
            logprobs_TV = self._model.model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        if handle != BASE:
            self._model.remove(handle)
        told = [{str(token): {"logprob": logprobs_TV[place, token].item()}} for place, token in enumerate(prompt[1:])]
        return [None, *told]

    def _sample(self, body: dict[str, Any], count: int) -> list[dict[str, Any]]:
        served = self._active.get()
        handle = BASE if served is None else self._model.add(served.adapter)
        generators = [torch.Generator().manual_seed(body["seed"] + index) for index in range(count)]
        drawn = [_Drawn([], []) for _ in range(count)]
        for _ in range(body["max_tokens"]):
            open_ = [index for index in range(count) if END not in drawn[index].tokens]
            if not open_:
                break
            ids_PT = torch.tensor([[*body["prompt"], *drawn[index].tokens] for index in open_])
            with torch.no_grad(), self._model.rows([handle] * len(open_)):
                logits_PV = self._model.model(ids_PT).logits[:, -1].float()
            for index, logits_V in zip(open_, logits_PV, strict=True):
                drawn[index].draw(logits_V, body["temperature"], generators[index], self.end_bias)
        if handle != BASE:
            self._model.remove(handle)
        return [one.choice(index) for index, one in enumerate(drawn)]


@dataclass
class _Drawn:
    tokens: list[int]
    logprobs: list[float]

    def draw(self, logits_V: torch.Tensor, temperature: float, generator: torch.Generator, end_bias: float) -> None:
        told_V = logits_V.log_softmax(-1)  # raw, as vLLM's are
        if end_bias:
            logits_V = logits_V + end_bias * (torch.arange(len(logits_V)) == END)
        if temperature == 0:
            token = int(logits_V.argmax())
        else:
            token = int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
        self.tokens.append(token)
        self.logprobs.append(told_V[token].item())

    def choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": _text(self.tokens),
            "token_ids": self.tokens,
            "logprobs": {"token_logprobs": self.logprobs},
            "finish_reason": "stop" if self.tokens[-1] == END else "length",
        }


def _text(tokens: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in tokens if token >= len(SPECIAL))
