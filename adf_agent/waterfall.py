"""A boot drawn as a waterfall: one SVG, in light and in dark, with nothing else needed to look at it."""

import html
import math
from collections.abc import Mapping, Sequence

from adf_agent.timeline import Boot, Stage

WIDTH, LEFT, RIGHT = 960, 120, 210  # pixels; on the right a bar's words have their place
TOP, ROW, BAR, FOOT = 74, 30, 16, 62
TICKS = 8  # at most
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #e4e7eb;
  --critical: #1f5fbf; --other: #a3bfe3; --failed: #c5302a; --running: #b87a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e9ec; --soft: #a2abb4; --line: #2d333a;
  --critical: #6ca8ff; --other: #3c5a85; --failed: #ff7a70; --running: #e2b13c; } }
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); }
.title { font-size: 16px; font-weight: 600; } .soft { fill: var(--soft); font-size: 12px; } .end { text-anchor: end; }
.middle { text-anchor: middle; } .paper { fill: var(--paper); } .grid { stroke: var(--line); }
.usual { stroke: var(--ink); stroke-width: 2; } .halo { stroke: var(--paper); stroke-width: 5; }
.chain { font-weight: 600; }
.critical { fill: var(--critical); } .other { fill: var(--other); } .failed { fill: var(--failed); }
.running { fill: var(--running); }
"""
LEGEND = (("critical", "on the critical path"), ("other", "not on it"), ("failed", "failed"), ("running", "running"))


def draw(boot: Boot, usual: Mapping[str, float], boots: int) -> str:
    """*boot* as SVG; *usual* seconds of each stage, the median of so many former *boots*, are marked beside them."""
    chain = {stage.name for stage in boot.critical()}
    length = max([stage.end for stage in boot.all] + [stage.at + usual.get(stage.name, 0.0) for stage in boot.all])
    scale = (WIDTH - LEFT - RIGHT) / (length or 1.0)
    height = TOP + ROW * len(boot.all) + FOOT
    rows = [_row(TOP + ROW * number, stage, chain, usual, scale) for number, stage in enumerate(boot.all)]
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<title>{html.escape(_title(boot))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        _text(LEFT, 26, _title(boot), "title"),
        *_axis(length, scale, TOP + ROW * len(boot.all)),
        *rows,
        *_legend(height - 18, boots),
        "</svg>\n",
    ))  # fmt: skip


def _title(boot: Boot) -> str:
    return " ".join(filter(None, [boot.instance, boot.release, f"{boot.phase}, {boot.seconds:.2f} s"]))


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'


def _axis(length: float, scale: float, bottom: int) -> Sequence[str]:
    step = _step(length)
    lines = []
    for number in range(int(length / step) + 1):
        x = LEFT + number * step * scale
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP - 12}V{bottom}"/>')
        lines.append(_text(x, TOP - 18, f"{number * step:g} s", "soft middle"))
    return lines


def _step(length: float) -> float:
    """The seconds between two ticks: 1, 2 or 5 of a power of ten, with TICKS of them at most."""
    least = max(length, 0.001) / TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(round(power * factor, 6) for factor in (1, 2, 5, 10) if power * factor >= least)


def _row(top: int, stage: Stage, chain: set[str], usual: Mapping[str, float], scale: float) -> str:
    x, width, middle = LEFT + stage.at * scale, max(2.0, stage.seconds * scale), top + BAR * 0.78
    kind = {"failed": "failed", "running": "running", "cut off": "failed"}.get(stage.state)
    kind = kind or ("critical" if stage.name in chain else "other")
    drawn = [
        f"<g><title>{html.escape(' '.join(filter(None, [stage.name, stage.state, stage.fact])))}</title>",
        _text(LEFT - 12, middle, stage.name, f"end{' chain' if stage.name in chain else ''}"),
        f'<rect class="{kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>',
    ]
    words, reach = f"{stage.seconds:.2f} s", x + width
    if stage.retries:
        words += f"  ↻ {stage.retries.number}: {stage.retries.seconds:.1f} s waited"
        drawn[0] = drawn[0].replace("</title>", f" ({html.escape(stage.retries.reason)})</title>")
    if stage.state in ("failed", "stopped", "cut off"):
        words += f"  {stage.state}"
    if stage.name in usual:
        mark = LEFT + (stage.at + usual[stage.name]) * scale
        drawn += [f'<path class="{kind}" d="M{mark:.1f} {top - 4}v{BAR + 8}"/>' for kind in ("halo", "usual")]
        reach = mark if mark - reach < len(words) * 7 and mark > reach else reach  # the words not across it
    return "\n".join([*drawn, _text(reach + 7, middle, words, "soft"), "</g>"])


def _legend(y: int, boots: int) -> Sequence[str]:
    x, drawn = float(LEFT), []
    for kind, text in LEGEND:
        drawn += [f'<rect class="{kind}" x="{x:.1f}" y="{y - 10}" width="12" height="12" rx="2"/>']
        drawn += [_text(x + 18, y, text, "soft")]
        x += 40 + 6.6 * len(text)
    drawn.append(_text(x, y, "↻ tries that failed", "soft"))
    if boots:
        x += 130
        drawn += [
            f'<path class="usual" d="M{x:.1f} {y - 12}v16"/>',
            _text(x + 9, y, f"usual end ({boots} boots)", "soft"),
        ]
    return drawn
