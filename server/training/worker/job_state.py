"""What a job has beside its vector and its optimizer: the `state` of a checkpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.training.jobs.base64_bytes import Base64
from server.training.jobs.protocol import BestVector
from server.training.worker.diagnosis import Diagnosis
from server.training.worker.early_stopping import EarlyStopping
from server.training.worker.method import Evaluation
from server.training.worker.step_report import finite


class JobState(BaseModel):
    """`best` is the vector to publish, and `best_value` its value on the held-out rows (keep_if_best).

    highest, highest_error: the highest value of any step, and its standard error; None in checkpoints of servers that
    published the highest, and before the first evaluation.
    learning_rate: of the whole job, once it is known; None in checkpoints of servers that had no automatic one.
    sigma: where a search began, once it is known.
    row_history: of every training row, what learnable_prompts.py knows of it; None with uniform selection.
    sampled_with: the vector (float32, little-endian) that the next step is sampled with, when it is an older one than
    that of the checkpoint.
    """

    best: BestVector | None = None
    best_value: float | None = None
    highest: float | None = None
    highest_error: float = 0.0
    learning_rate: float | None = None
    sigma: float | None = None
    watch: EarlyStopping = Field(default_factory=EarlyStopping)
    diagnosis: Diagnosis = Field(default_factory=Diagnosis)
    row_history: Annotated[bytes, Base64("state.row_history")] | None = None
    sampled_with: Annotated[bytes, Base64("state.sampled_with")] | None = None

    def keep_if_best(self, evaluation: Evaluation, vector: bytes, step: int) -> None:
        """Keep `vector` as the best unless an earlier one is better by more than chance explains: by more than the
        standard error of the highest value. Without errors, as losses are, that is by any difference.

        Design decision: not the vector with the highest value. On few held-out rows that is often an early step that
        was lucky, or the untrained vector, and what was learned since is lost.
        """
        highest = self.best_value if self.highest is None else self.highest
        if highest is None or evaluation.value >= highest:
            self.highest, self.highest_error = evaluation.value, evaluation.error
        elif evaluation.value < highest - self.highest_error:
            return
        self.best = BestVector(vector=vector, step=step, metrics=finite(evaluation.metrics))
        self.best_value = evaluation.value

    def forget_start(self) -> None:
        """Compare nothing with the evaluation before training any more."""
        self.watch.start, self.watch.start_by_row = None, []
        self.diagnosis.history.forget_start()

    @property
    def has_improved(self) -> bool:
        """Whether what would be published is of a step and better than the start."""
        return self.has_kept_up and (self.watch.start is None or self.best_value != self.watch.start)

    @property
    def has_kept_up(self) -> bool:
        """Whether what would be published is of a step and as good as the start, or better."""
        if self.best is None or self.best_value is None or self.best.step == 0:
            return False
        return self.watch.start is None or self.best_value >= self.watch.start
