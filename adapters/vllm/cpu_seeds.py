"""Keeps vLLM's CPU backend alive when a seeded request has a prompt that takes several passes to read.

While a prompt is only partly read, vLLM samples a token, discards it and rewinds the request's generator. CPU
generators cannot be rewound: the attempt raises, and the engine ends with every request in it. Here the generators of
such requests are hidden while a step samples, so nothing is drawn from them and nothing is rewound. As on a GPU, what a
seed gives does not depend on how the prompt was cut.

This has nothing to do with TinyLoRA, and is not used on a GPU.
"""

from __future__ import annotations

from typing import Any


def keep_seeds_of_partly_read_prompts(runner: Any) -> None:
    """Wrap `sample_tokens` of the CPU's model runner class. Calling it again does nothing."""
    original = runner.sample_tokens
    if getattr(original, "is_tinylora_seam", False):
        return

    def sample_tokens(self: Any, grammar_output: Any) -> Any:
        batch = self.input_batch
        partly_read = self.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        kept = {index: batch.generators.pop(index) for index in partly_read if index in batch.generators}
        try:
            return original(self, grammar_output)
        finally:
            batch.generators.update(kept)

    sample_tokens.is_tinylora_seam = True  # type: ignore[attr-defined]
    runner.sample_tokens = sample_tokens
