"""How many tokens each output of the engine adds to an answer."""

from __future__ import annotations

from vllm.outputs import RequestOutput


class TokenCount:
    """Counts the tokens of one generation, whose outputs repeat what was generated before when `cumulative`."""

    def __init__(self, *, cumulative: bool) -> None:
        self._cumulative = cumulative
        self._prompt_tokens = 0
        self._generated: dict[int, int] = {}

    def new(self, output: RequestOutput) -> tuple[int, int, int]:
        """The tokens of the prompt and of the answers in `output` that no output before it had; and how many of the
        prompt's were cached."""
        prompt_tokens = 0 if self._prompt_tokens else len(output.prompt_token_ids or ())
        self._prompt_tokens += prompt_tokens
        cached_tokens = (output.num_cached_tokens or 0) if prompt_tokens else 0
        new_tokens = 0
        for completion in output.outputs:
            tokens = len(completion.token_ids)
            if self._cumulative:
                new_tokens += tokens - self._generated.get(completion.index, 0)
                self._generated[completion.index] = tokens
            else:
                new_tokens += tokens
        return prompt_tokens, new_tokens, cached_tokens
