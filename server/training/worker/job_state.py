"""What a job has beside its vector and its optimizer: the `state` of a checkpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.training.jobs.base64_bytes import Base64
from server.training.jobs.protocol import BestVector
from server.training.worker.diagnosis import Diagnosis
from server.training.worker.early_stopping import EarlyStopping


class JobState(BaseModel):
    """`best` is the vector with the highest `best_value` so far.

    learning_rate: of the whole job, once it is known; None in checkpoints of servers that had no automatic one.
    sigma: where a search began, once it is known.
    sampled_with: the vector (float32, little-endian) that the next step is sampled with, when it is an older one than
    that of the checkpoint.
    """

    best: BestVector | None = None
    best_value: float | None = None
    learning_rate: float | None = None
    sigma: float | None = None
    watch: EarlyStopping = Field(default_factory=EarlyStopping)
    diagnosis: Diagnosis = Field(default_factory=Diagnosis)
    sampled_with: Annotated[bytes, Base64("state.sampled_with")] | None = None

    def keep_if_best(self, value: float, vector: bytes, step: int, metrics: dict[str, float]) -> None:
        """Keep `vector` as the best unless an earlier one has a higher value; of equal values the later step wins."""
        if self.best_value is None or value >= self.best_value:
            self.best, self.best_value = BestVector(vector=vector, step=step, metrics=metrics), value

    @property
    def has_improved(self) -> bool:
        """Whether a step has reached a higher value than the start."""
        return self.best is not None and self.best.step > 0 and self.best_value != self.watch.start
