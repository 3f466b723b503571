"""The process that draws random projections for the gateway (`adapters.apply.projection_worker`).

A large draw is asked for some modules at a time, and draws take turns, so that a small one waits for a piece of a large
one (some 30 ms) and not for all of it.

The process starts when it is first needed and belongs to the event loop of that call. It ends when its standard input
closes, and so with the gateway, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapters.vector.recipe import Recipe
from server.core.errors import Unavailable

PIECE_NUMBERS = 2**14
TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "adapters.apply.projection_worker")


class ProjectionProcess:
    """Draws for the modules given, Hugging Face names in depth order."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._turn = asyncio.Lock()  # first come, first served
        self._process: Process | None = None

    async def draw(self, recipe: Recipe) -> Tensor:
        """P of all modules, float32 (M, u, r * r), for a recipe whose projection is sha256.

        Unavailable when the process does not answer; the next draw starts another.
        """
        numbers = recipe.u * recipe.rank**2
        step = max(1, PIECE_NUMBERS // numbers)
        drawn = bytearray()
        for start in range(0, len(self._modules), step):
            modules = self._modules[start : start + step]
            async with self._turn:
                drawn += await self._ask(recipe, modules, 4 * numbers * len(modules))
        return torch.frombuffer(drawn, dtype=torch.float32).reshape(len(self._modules), recipe.u, -1)

    async def close(self) -> None:
        """End the process; another draw would start a new one."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ask(self, recipe: Recipe, modules: Sequence[str], length: int) -> bytes:
        question = json.dumps({"recipe": recipe.to_dict(), "modules": modules}).encode() + b"\n"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._process is None:
                    self._process = await _start()
                assert self._process.stdin is not None and self._process.stdout is not None
                self._process.stdin.write(question)
                await self._process.stdin.drain()
                return await self._process.stdout.readexactly(length)
        except BaseException as error:
            # The rest of this answer may still come, and would be taken for the next one.
            await self.close()
            if isinstance(error, OSError | TimeoutError | asyncio.IncompleteReadError):
                raise Unavailable(
                    "The projection of this recipe could not be drawn. Try again; the server's log has what "
                    f"`{' '.join(_COMMAND[1:])}` wrote."
                ) from error
            raise


async def _start() -> Process:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    # A session of its own: Ctrl-C is for the gateway, which then ends it.
    return await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=PIPE, stdout=PIPE, cwd=_ROOT, env=environment, start_new_session=True
    )
