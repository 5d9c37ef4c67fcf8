"""The losses of a run as a picture that grows while it trains, in SVG."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

POINTS = 200
"""About how many points a line has."""

# Both can be told from a white page and from a black one; text and axes take the page's own colour.
_TRAINING, _VALIDATION = "#3b82c4", "#d9730d"

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 640, 220, 48, 10, 36
"""The picture, and its margins for the axes, in pixels."""


class Curve:
    """The losses of a run, in nats per token, against epochs.

    Args:
      steps: the number of steps per epoch.
      epochs: the number of epochs that the run will have.
      metrics: those that it has had, as in `Run.metrics`.

    Attributes:
      training: (epochs, loss): each is the mean of a stretch of steps, at its middle.
      validation: (epoch, loss).
    """

    def __init__(self, steps: int, epochs: int, metrics: Iterable[Mapping[str, Any]] = ()) -> None:
        self._steps, self._whole = steps, epochs
        self._stretch = min(steps, math.ceil(steps * epochs / POINTS))
        self._start = 0, 0.0
        self.training: list[tuple[float, float]] = []
        self.validation: list[tuple[float, float]] = []
        for line in metrics:
            self.training.append((line["epoch"] - 0.5, line["loss"]))
            self.epoch(line["epoch"], line["validation_loss"])

    def step(self, step: int, loss: float) -> None:
        """A step is complete; `loss` is the epoch's mean so far."""
        row = (step - 1) % self._steps + 1
        if row <= self._start[0]:  # A new epoch.
            self._start = 0, 0.0
        first, before = self._start
        # At an epoch's end, the mean of a few steps would only be noise.
        if row - first >= (self._stretch if row < self._steps else self._stretch / 2):
            middle = (step - (row - first) / 2) / self._steps
            self.training.append((middle, (loss * row - before) / (row - first)))
            self._start = row, loss * row

    def epoch(self, epoch: int, validation: float | None) -> None:
        """An epoch is complete; None is that of a run without a validation text."""
        if validation is not None:
            self.validation.append((epoch, validation))

    def go_back(self, step: int) -> None:
        """The run has gone back to the end of an epoch, at this step."""
        end = step / self._steps
        self._start = 0, 0.0
        self.training = [point for point in self.training if point[0] < end]
        self.validation = [point for point in self.validation if point[0] <= end]

    def svg(self) -> str:
        """The picture; empty as long as there is nothing to draw."""
        if len(self.training) < 2:
            return ""
        validation = self.validation
        # The first losses are far above all others, and would press them flat.
        losses = [loss for _, loss in self.training[len(self.training) // 10 :]] + [loss for _, loss in validation]
        low, high = min(losses), max(losses)
        room = 0.05 * (high - low) or 0.05
        low, high = low - room, high + room
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM

        def place(point: tuple[float, float]) -> tuple[float, float]:
            return point[0] / self._whole * width, (high - point[1]) / (high - low) * height

        def line(points: list[tuple[float, float]], color: str) -> str:
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, _thinned(points)))
            return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="1.6"/>'

        def label(x: float, y: float, text: str, anchor: str, color: str = "currentColor") -> str:
            return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{text}</text>'

        grid, names = [], []
        for tick in _ticks(low, high, 4):
            y = place((0, tick))[1]
            grid.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" opacity="0.15"/>')
            names.append(label(_LEFT - 6, y + 4, f"{tick:.4g}", "end"))
        for tick in _ticks(0, self._whole, 8):
            if tick == int(tick):
                names.append(label(_LEFT + place((tick, low))[0], height + 16, f"{tick:.0f}", "middle"))
        names.append(label(_LEFT + width / 2, _HEIGHT - 4, "epochs", "middle"))
        drawn = [line(self.training, _TRAINING), line(validation, _VALIDATION)]
        drawn += [
            _dot(*place(point), _VALIDATION, f"epoch {point[0]:.0f}: {point[1]:.4f}") for point in _thinned(validation)
        ]
        said = f"training loss {self.training[-1][1]:.3f}"
        names.append(label(_WIDTH - _RIGHT, 14, f"{said} nats", "end", _TRAINING))
        if validation:
            best = min(validation, key=lambda point: point[1])
            x, y = place(best)
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="{_VALIDATION}"/>')
            text = f"validation loss {validation[-1][1]:.3f} nats, best {best[1]:.3f} in epoch {best[0]:.0f}"
            names.append(label(_WIDTH - _RIGHT, 30, text, "end", _VALIDATION))
            said += f", {text}"
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}" '
            f'style="width:100%;max-width:{_WIDTH}px;overflow:visible;font-size:12px">{"".join(grid)}'
            # An inner picture cuts off what lies outside.
            f'<svg x="{_LEFT}" width="{width + _RIGHT}" height="{height}">{"".join(drawn)}</svg>{"".join(names)}</svg>'
        )


def _dot(x: float, y: float, color: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{title}</title></circle>'


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS of them, the last one included."""
    return points[:: -math.ceil(len(points) / POINTS) or -1][::-1]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
