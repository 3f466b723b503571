"""The curves of a job, from its events: rewards, or losses where there are no rewards, drawn in characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COLOURS = {"train": "cyan", "valid": "green"}
KINDS = ("reward_mean", "loss")


@dataclass(slots=True)
class Curves:
    """points: metric -> step -> value, of the metrics that are drawn."""

    points: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, data: object) -> None:
        """Take what an event's data has of them."""
        if not isinstance(data, Mapping) or not isinstance(data.get("step"), int):
            return
        for name in (f"{split}_{kind}" for kind in KINDS for split in COLOURS):
            if isinstance(data.get(name), int | float):
                self.points.setdefault(name, {})[data["step"]] = float(data[name])

    @property
    def kind(self) -> str | None:
        """Which are drawn; None while there are none."""
        return next((kind for kind in KINDS if any(name.endswith(kind) for name in self.points)), None)

    def latest(self) -> dict[str, float]:
        """The newest value of each that is drawn, by "train" and "valid"."""
        return {split: points[max(points)] for split, points in self._drawn().items()}

    def draw(self, width: int, height: int, total_steps: int | None, *, colours: bool = True) -> str:
        """Lines of at most `width` characters, with escape codes if `colours`; "" while there is nothing to draw."""
        import plotille

        drawn = self._drawn()
        if not drawn:
            return ""
        figure: Any = plotille.Figure()
        # Beside the canvas are the numbers, below it the steps and the names of both axes.
        figure.width, figure.height = max(width - 24, 20), max(height - 4, 4)
        figure.color_mode, figure.with_colors = "names", colours
        figure.x_label, figure.y_label = "step", (self.kind or "").removesuffix("_mean")
        figure.x_ticks_fkt = lambda low, _high: f"{low:.1f}".removesuffix(".0")
        figure.y_ticks_fkt = lambda low, _high: f"{low:.3f}"
        values = [value for points in drawn.values() for value in points.values()]
        room = max((max(values) - min(values)) * 0.05, 1e-3)
        figure.set_y_limits(min_=min(values) - room, max_=max(values) + room)
        figure.set_x_limits(min_=0, max_=max(total_steps or 0, *(max(points) for points in drawn.values()), 1))
        for split, points in drawn.items():
            steps = sorted(points)
            figure.plot(steps, [points[step] for step in steps], label=split, lc=COLOURS[split] if colours else None)
        return str(figure.show(legend=False))

    def _drawn(self) -> dict[str, dict[int, float]]:
        named = {split: self.points.get(f"{split}_{self.kind}") for split in COLOURS}
        return {split: points for split, points in named.items() if points}
