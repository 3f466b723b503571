"""`python -m adapters.apply.projection_worker`: draws projections in a process of its own.

A line in: {"recipe": {...}, "modules": ["model.layers.0...", ...]}. Out: the P of those modules one after the other,
float32 little-endian (modules, u, k, k), and nothing else. It ends when standard input does.

Design decision: a process and not a thread, because drawing is Python (a hash for every number) and would hold the
interpreter's lock. It runs at a low priority, because the engine uses the same cores.
"""

import json
import os
import sys

from adapters.vector.projection_draw import draw
from adapters.vector.recipe import Recipe

NICENESS = 10


def main() -> None:
    os.nice(NICENESS)
    for line in sys.stdin:
        asked = json.loads(line)
        recipe = Recipe.from_dict(asked["recipe"])
        for module in asked["modules"]:
            sys.stdout.buffer.write(draw(recipe, module).astype("<f4").tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
