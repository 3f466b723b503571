"""What training has gained on the held-out rows: the mean of the differences, row by row, to the rewards before it.

Rows differ from each other by far more than one of them changes. So the error of the mean difference is often a third
of that of either mean, and tells a gain from chance with as many rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from server.training.worker.history import Level
from server.training.worker.method import Evaluation

_GAIN, _ERROR = "valid_reward_gain", "valid_reward_gain_error"


def with_gain(evaluation: Evaluation, start: Sequence[float | None]) -> Evaluation:
    """With valid_reward_gain and its standard error in the metrics, if rewards of two rows at least are known.

    start: mean reward of each held-out row before training, in their order; empty where nothing was measured.
    """
    if not start:
        return evaluation
    both = zip(start, evaluation.by_row, strict=True)
    gains = [now - before for before, now in both if before is not None and now is not None]
    if len(gains) < 2:
        return evaluation
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return replace(evaluation, metrics={**evaluation.metrics, _GAIN: statistics.fmean(gains), _ERROR: error})


def gain_of(metrics: Mapping[str, float], rows: int) -> Level | None:
    """The gain among the metrics of an evaluation on so many held-out rows; None where it is not known."""
    return Level(metrics[_GAIN], metrics[_ERROR], rows - 1) if _GAIN in metrics and _ERROR in metrics else None


def in_words(metrics: Mapping[str, float]) -> str:
    """As "+0.12 ± 0.04"; empty where it is not known."""
    return f"{metrics[_GAIN]:+.2g} ± {metrics[_ERROR]:.1g}" if _GAIN in metrics and _ERROR in metrics else ""
