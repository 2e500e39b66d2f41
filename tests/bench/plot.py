"""Lines over what grows, both axes logarithmic: one SVG, in light and in dark, with nothing else to look at it."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Lines = Mapping[str, Mapping[int, float]]  # by what a line says: its value at each size

WIDTH, HEIGHT, LEFT, TOP, GAP, ROW, FOOT = 250, 200, 52, 60, 80, 20, 48  # pixels; a panel's, and around it
MOST_TICKS = 8
STYLE = """
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #59636e; }
.title { font-size: 14px; fill: #1f2328; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: #d1d9e0; } .line { fill: none; stroke: currentColor; stroke-width: 2; } circle { fill: currentColor; }
.line0 { color: #0969da; } .line1 { color: #bc4c00; } .line2 { color: #1a7f37; } .line3 { color: #8250df; }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1; } .title { fill: #f0f6fc; } .grid { stroke: #3d444d; }
  .line0 { color: #58a6ff; } .line1 { color: #f0883e; } .line2 { color: #3fb950; } .line3 { color: #bc8cff; }
}
"""
DASHES = ("none", "7 3", "2 3", "9 3 2 3")  # for whoever can't tell the colours


@dataclass(frozen=True)
class Panel:
    """One set of axes; the horizontal one is that of all panels beside it."""

    unit: str
    lines: Lines


def draw(title: str, axis: str, panels: Sequence[Panel]) -> str:
    """*panels* side by side, over *axis*; every value is greater than 0."""
    width = (LEFT + WIDTH + GAP // 2) * len(panels)
    height = TOP + HEIGHT + FOOT + ROW * max(len(panel.lines) for panel in panels)
    drawn = (part for number, panel in enumerate(panels) for part in _panel(number, axis, panel))
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style>",
        *drawn,
        "</svg>\n",
    ))  # fmt: skip


def _panel(number: int, axis: str, panel: Panel) -> Iterator[str]:
    left, bottom = LEFT + number * (LEFT + WIDTH + GAP // 2), TOP + HEIGHT
    across = _ticks({at for line in panel.lines.values() for at in line}, (1,))
    up = _ticks({value for line in panel.lines.values() for value in line.values()}, (1, 2, 5))

    def x(size: float) -> float:
        return left + WIDTH * _part(size, across)

    def y(value: float) -> float:
        return bottom - HEIGHT * _part(value, up)

    yield _text(left, TOP - 34, panel.unit, "title")
    for at in across:
        yield f'<path class="grid" d="M{x(at):.1f} {TOP}V{bottom}"/>' + _text(x(at), bottom + 16, f"{at:,g}", "middle")
    for at in up:
        yield f'<path class="grid" d="M{left} {y(at):.1f}h{WIDTH}"/>' + _text(left - 6, y(at) + 4, f"{at:,g}", "end")
    yield _text(left + WIDTH / 2, bottom + 34, axis, "middle")
    for which, (label, line) in enumerate(panel.lines.items()):
        kind = f'class="line line{which}" stroke-dasharray="{DASHES[which]}"'
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in sorted(line.items()))
        row = bottom + FOOT + ROW * which
        yield f'<polyline {kind} points="{points}"/><path {kind} d="M{left} {row}h28"/>'
        yield from (f'<circle class="line{which}" cx="{x(at):.1f}" cy="{y(line[at]):.1f}" r="3"/>' for at in line)
        yield _text(left + 36, row + 4, label, "")


def _part(value: float, ticks: Sequence[float]) -> float:
    """Where *value* is between the first tick (0) and the last (1)."""
    return math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])


def _ticks(values: set[float], steps: Sequence[int]) -> list[float]:
    """The *steps* of each power of ten, from the last power that no value is below to the first tick above all."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 2)
    every = [round(step * 10.0**power, 9) for power in powers for step in steps]
    last = next(number for number, tick in enumerate(every) if tick >= max(values) and number)
    return every[: last + 1] if last < MOST_TICKS else _ticks(values, (1,))


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'
