"""How many tokens one call of the engine takes: of its prompt, and of all answers to it."""

from __future__ import annotations

from server.engine.protocol import TokenObserver


class TokenCount:
    """Tells `observe` what each output of the engine adds. With `prompt_only`, what is generated is nobody's."""

    def __init__(self, observe: TokenObserver, *, prompt_only: bool = False) -> None:
        self._observe = observe
        self._prompt_only = prompt_only
        self._prompt_tokens = 0

    def add(self, prompt_tokens: int, cached_tokens: int, new_tokens: int) -> None:
        """An output with so many new tokens of an answer whose prompt has so many by now, the cached ones among them.

        Several answers share a prompt, and one that arrives in pieces grows: what was counted of it before is not
        counted again.
        """
        more = prompt_tokens - self._prompt_tokens
        cached = 0 if self._prompt_tokens else cached_tokens
        self._prompt_tokens = prompt_tokens
        self._observe(more, 0 if self._prompt_only else new_tokens, cached)
