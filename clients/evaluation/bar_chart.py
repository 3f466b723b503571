"""A bar chart with error bars as SVG, without a plotting library.

Design decision: a page of SVG, and no plotting library: it is less code than a dependency, and its text can be
searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

BAR, GAP, HEIGHT, LEFT, TOP, BOTTOM = 64, 36, 260, 56, 56, 72
INK, FILL, GRID = "#222", "#4c78a8", "#ddd"
MAX_LABEL_CHARS = 24


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` in 0..1, and the ends of its error bar, if it has one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


def bar_chart(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """The SVG document; the vertical axis is from 0 to 100 %."""
    width = max(LEFT + GAP + len(bars) * (BAR + GAP), 12 + 7 * max(len(title), len(subtitle)))
    parts = [_text(LEFT, 22, title, "start", 15), _text(LEFT, 40, subtitle, "start", 11)]
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{percent} %", "end", 11))
    for index, bar in enumerate(bars):
        parts += _bar(bar, LEFT + GAP + index * (BAR + GAP))
    height = TOP + HEIGHT + BOTTOM
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _bar(bar: Bar, x: float) -> list[str]:
    middle, y = x + BAR / 2, _y(bar.value)
    shown = bar.label if len(bar.label) <= MAX_LABEL_CHARS else f"…{bar.label[1 - MAX_LABEL_CHARS :]}"
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BAR}" height="{_y(0) - y:.1f}" fill="{FILL}">'
        f"<title>{escape(bar.label)}</title></rect>",
        f'<g transform="rotate(-20 {middle:.1f} {_y(0) + 18:.1f})">'
        f"{_text(middle, _y(0) + 18, shown, 'middle', 11)}</g>",
    ]
    top = y
    if bar.low is not None and bar.high is not None:
        top = _y(bar.high)
        for x1, y1, x2, y2 in (
            (middle, top, middle, _y(bar.low)),
            (middle - 8, top, middle + 8, top),
            (middle - 8, _y(bar.low), middle + 8, _y(bar.low)),
        ):
            parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{INK}"/>')
    parts.append(_text(middle, top - 6, f"{bar.value:.1%}", "middle", 12))
    return parts


def _y(value: float) -> float:
    return TOP + HEIGHT * (1 - min(1.0, max(0.0, value)))


def _text(x: float, y: float, text: str, anchor: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{escape(text)}</text>'
