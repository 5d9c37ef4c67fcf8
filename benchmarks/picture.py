"""Draws docs/learning.svg from learning.json: `python benchmarks/picture.py`. It needs nothing but Python."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

RECORDED = Path(__file__).with_name("learning.json")
PICTURE = Path(__file__).parents[1] / "docs" / "learning.svg"

WIDTH, HEIGHT = 880, 520
TOP, BOTTOM = 62, HEIGHT - 54
LOSSES = 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9

# The viewer's theme chooses the colours, the background's included, so that they always fit one another.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #59636e }
.title { font-size: 15px; font-weight: 600; fill: #1f2328 }
.paper { fill: #fff }
.grid { stroke: #e4e8ec }
.line, .level { fill: none; stroke: currentColor }
.line { stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
.level { stroke-width: 1.5; stroke-dasharray: 5 4 }
.dot { fill: currentColor; stroke: #fff; stroke-width: 1.5 }
.name { fill: currentColor; font-weight: 600 }
.book { color: #bc4c00 } .small { color: #0969da } .medium { color: #6639ba } .others { color: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .paper { fill: #0d1117 } .grid { stroke: #262c34 }
  .dot { stroke: #0d1117 } .name { fill: currentColor }
  .book { color: #f0883e } .small { color: #58a6ff } .medium { color: #b392f0 } .others { color: #9198a1 }
}
"""


@dataclass(frozen=True)
class Label:
    """What is written beside a series.

    Attributes:
      color: its class in STYLE.
      lines: of text; the first is its name.
      seconds, loss: where the first line stands.
      anchor: which end of the lines stands there.
      number: how far below its point the last loss is written, in pixels; None for nowhere.
    """

    color: str
    lines: tuple[str, ...]
    seconds: float
    loss: float
    anchor: str = "start"
    number: int | None = 22


@dataclass(frozen=True)
class Panel:
    """A chart: seconds to the right, on a logarithmic scale; loss upwards.

    Attributes:
      key: of its series in learning.json.
      title: the text that is learned.
      left, right: its sides, in pixels.
      seconds: the range.
      ticks: seconds that are marked, and how they are written.
      labels: by name of a series.
    """

    key: str
    title: str
    left: float
    right: float
    seconds: tuple[float, float]
    ticks: dict[float, str]
    labels: dict[str, Label]

    def x(self, seconds: float) -> float:
        low, high = map(math.log, self.seconds)
        return self.left + (self.right - self.left) * (math.log(seconds) - low) / (high - low)


def y_of(loss: float) -> float:
    """The height of a loss in nats, the same in all panels."""
    return BOTTOM - (BOTTOM - TOP) * (loss - LOSSES[0]) / (LOSSES[-1] - LOSSES[0])


PANELS = (
    Panel(
        key="nietzsche",
        title="Nietzsche",
        left=44,
        right=540,
        seconds=(3.4, 5200),
        ticks={5: "5 s", 15: "15 s", 60: "1 min", 300: "5 min", 900: "15 min", 2400: "40 min"},
        labels={
            "book": Label("book", ("book",), 56, 1.745),
            "stream, small": Label("small", ("stream, small",), 3.6, 1.2),
            "stream, medium": Label("medium", ("medium: 1.219",), 5100, 1.125, "end", number=None),
            "learned from others": Label("medium", ("learned from others: 1.187",), 5100, 1.075, "end", number=None),
            "medium, 8 epochs": Label("medium", ("8 epochs,", "last tenth"), 150, 1.147),
            "small without counts": Label("small", ("without counts",), 10, 1.58),
            "medium without counts": Label("medium", ("without counts",), 170, 1.42, number=-12),
            "n-gram": Label("others", ("an n-gram alone",), 3.6, 1.352),
            "Keras": Label("others", ("the book's code in Keras",), 802, 1.59, "middle"),
            "fastai": Label("others", ("fastai",), 22, 1.27),
        },
    ),
    Panel(
        key="shakespeare",
        title="Tiny Shakespeare",
        left=606,
        right=866,
        seconds=(35, 3600),
        ticks={60: "1 min", 300: "5 min", 1800: "30 min"},
        labels={
            "stream, 1 x 256": Label("small", ("stream, 1 x 256:", "1.433, 1.423"), 50, 1.37),
            "1 x 256 without counts": Label("small", ("without counts",), 80, 1.585),
            "stream, medium": Label("medium", ("stream, medium",), 3300, 1.29, "end"),
            "two averaged": Label("medium", ("two averaged: 1.359",), 3400, 1.25, "end", number=None),
            "medium without counts": Label("medium", ("without counts: 1.419",), 3400, 1.437, "end", number=None),
            "n-gram": Label("others", ("an n-gram alone",), 3500, 1.537, "end"),
            "nanoGPT quick-start": Label("others", ("nanoGPT's", "CPU quick-start"), 245, 1.875),
            "nanoGPT": Label("others", ("nanoGPT, as published",), 3500, 1.477, "end"),
        },
    ),
)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css and f" class={css!r}"}>{escape(words)}</text>'


def level(panel: Panel, loss: float, css: str) -> str:
    return f'<path class="{css}" d="M{panel.left},{y_of(loss):.1f}H{panel.right}"/>'


def draw_axes(panel: Panel) -> Iterator[str]:
    yield text(panel.left - 32, 26, panel.title, "title")
    for loss in LOSSES:
        yield level(panel, loss, "grid")
        yield text(panel.left - 8, y_of(loss) + 4.5, f"{loss}", anchor="end")
    for seconds, name in panel.ticks.items():
        yield text(panel.x(seconds), BOTTOM + 21, name, anchor="middle")


def draw_series(panel: Panel, points: list[tuple[float | None, float]], label: Label) -> Iterator[str]:
    timed = [(panel.x(seconds), y_of(loss)) for seconds, loss in points if seconds is not None]
    last = points[-1][1]
    lines = list(label.lines)
    if not timed:  # A loss without a time is a level.
        yield level(panel, last, f"level {label.color}")
        lines[0] += f": {last}"
    if len(timed) > 3:
        yield f'<polyline class="line {label.color}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in timed)}"/>'
        timed = timed[-1:]
    if len(timed) == 1:
        [(x, y)] = timed
        if label.number is not None:
            yield text(x, y + label.number, f"{last:.3f}", label.color, "middle")
    for x, y in timed:
        yield f'<circle class="dot {label.color}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    for i, words in enumerate(lines):
        css = label.color if i else f"name {label.color}"
        yield text(panel.x(label.seconds), y_of(label.loss) + 17 * i, words, css, label.anchor)


def svg() -> str:
    """The picture."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<title>Loss on unseen text against training time on two CPU cores</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
    ]
    for panel in PANELS:
        parts += draw_axes(panel)
        for series in recorded[panel.key]:
            parts += draw_series(panel, series["points"], panel.labels[series["name"]])
    parts.append(text(12, 46, "loss on unseen text, nats per character"))
    parts.append(text(44, HEIGHT - 10, "training time on two CPU cores, logarithmic"))
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
