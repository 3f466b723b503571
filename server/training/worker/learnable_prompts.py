"""Which rows a step samples, by what their groups did before. A group without two different rewards teaches nothing.

Every row waits for its turn on one clock, and the rows whose turn comes first are sampled. The clock counts epochs: the
first time, a row has its place in an epoch's order, as it would have without any history. Then it waits

    c = (d + m) / (s + 1)        the chance that its group differs next: the mean of a Beta distribution whose prior has
                                 the mean m and the weight of one visit
    wait = m / c                 epochs, times a number from 0.5 to 1.5 drawn from the seed, so that batches mix

s: its visits; d: those in which its group differed; of both an earlier visit weighs half as much as the one after it.
m: the mean of d / s over all rows seen. So a row comes about in proportion to c. Where all groups differ every row
waits one epoch; where few do, their rows come often and the others seldom, while new ones keep their places. A row
whose groups never differ waits about three epochs, and no longer however often it was flat: none is left out for ever,
for the model changes.

Other work has found that rows which were flat mostly stay so (GRESO, arXiv 2506.02177), and that the expected gain of a
step grows with the variance of its rewards (arXiv 2504.03380). To wait in inverse proportion to a weight is stride
scheduling (Waldspurger and Weihl, 1995).

Design decision: a step never samples more prompts than its batch to replace those that were flat (DAPO's dynamic
sampling, arXiv 2503.14476). Completions are most of what a step costs here, how many it takes would be luck, and where
few rows can differ there is no end of it. Nor is a row ever dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from server.training.worker.dataset import Sampler
from server.training.worker.job_state import JobState

# Weight of a visit beside the one after it.
KEPT = 0.5


class LearnablePrompts:
    """The order of the `count` rows of a job. What it depends on is in `state`, behind every `observe`: 12 bytes a row.

    Its numbers are sums, products and quotients of IEEE 754, and draws by SHA-256: the same on every machine.
    """

    def __init__(self, count: int, batch_size: int, seed: int, state: JobState) -> None:
        self._batch_size, self._seed, self._state = batch_size, seed, state
        self._place_R = np.argsort(Sampler(count, count, seed).batch(0))
        # When each row's turn is, s and d: float32, as they are stored.
        self._numbers_3R: npt.NDArray[np.float32] = np.zeros((3, count), np.float32)
        self._numbers_3R[0] = self._place_R / count
        if state.row_history is not None:
            self._numbers_3R = np.frombuffer(state.row_history, "<f4").reshape(3, count).copy()

    def batch(self) -> tuple[int, ...]:
        """The rows of the next step, each once; of fewer rows than a batch all, several times."""
        order = np.lexsort((self._place_R, self._numbers_3R[0])).tolist()
        return tuple(order[place % len(order)] for place in range(self._batch_size))

    def observe(self, step: int, differed: Sequence[bool | None]) -> None:
        """Count step `step`: of each row of its batch whether its group differed, None where that is unknown."""
        turn_R, seen_R, differed_R = self._numbers_3R
        rows = self.batch()
        now = float(turn_R[list(rows)].max())
        for row, one in zip(rows, differed, strict=True):
            if one is not None:
                seen_R[row] = KEPT * seen_R[row] + 1
                differed_R[row] = KEPT * differed_R[row] + one
        usual = self._usual()
        for row in rows:
            wait = usual * (float(seen_R[row]) + 1) / (float(differed_R[row]) + usual)
            turn_R[row] = now + wait * (0.5 + self._drawn(step, row))
        self._state.row_history = self._numbers_3R.astype("<f4").tobytes()

    def _usual(self) -> float:
        """m; 1 before anything is known."""
        _, seen_R, differed_R = self._numbers_3R
        is_seen_R = seen_R > 0
        shares = (differed_R[is_seen_R] / seen_R[is_seen_R]).tolist()
        return (math.fsum(shares) + 1) / (len(shares) + 1)

    def _drawn(self, step: int, row: int) -> float:
        """At least 0 and below 1."""
        digest = hashlib.sha256(f"{self._seed}/wait/{step}/{row}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32
