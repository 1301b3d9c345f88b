"""Line charts as inline SVG: no script, no font, no network; colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260  # user units
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; `style` is a class of the style sheet (a, b, c, d)."""

    name: str
    style: str
    points: Sequence[Point]
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Where numbers go: from `low` to `high`, with marks at `ticks`."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """A number's place on the axis, 0..1; what lies outside is put on the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Mark:
    """A straight line across the chart, such as the target; on the x axis it is upright."""

    value: float
    label: str
    upright: bool = False


def linear_axis(title: str, high: float, *, round_up: bool = True) -> Axis:
    """An axis from 0 with four to eight marks, up to `high` or to the next mark above it."""
    span = max(high, 1e-9)
    step: float = 10 ** math.floor(math.log10(span))
    step *= next(factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2) if span / (step * factor) <= 8)
    marks = math.ceil(span / step - 1e-9) if round_up else math.floor(span / step + 1e-9)
    return Axis(title, 0.0, marks * step if round_up else span, [index * step for index in range(marks + 1)])


def logarithmic_axis(title: str, low: float, high: float) -> Axis:
    """An axis over whole powers of ten around low..high (both above 0)."""
    first = math.floor(math.log10(low))
    last = max(math.ceil(math.log10(high)), first + 1)
    return Axis(title, 10.0**first, 10.0**last, [10.0**power for power in range(first, last + 1)], logarithmic=True)


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], marks: Sequence[Mark] = ()) -> str:
    """A figure element with its title, a legend and the chart."""
    legend = "".join(f'<span class="key {line.style}">{escape(line.name)}</span>' for line in series)
    body = _grid(x, y) + "".join(_line(line, x, y) for line in series) + "".join(_mark(mark, x, y) for mark in marks)
    return (
        f'<figure><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg></figure>'
    )


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _up(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y.ticks:
        at = _up(y, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x.ticks:
        at = _across(x, tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text class="title" x="{right}" y="{HEIGHT - 6}" text-anchor="end">{escape(x.title)}</text>')
    middle = (TOP + bottom) / 2
    turned = f'transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle"'
    return "".join(parts) + f'<text class="title" {turned}>{escape(y.title)}</text>'


def _line(line: Series, x: Axis, y: Axis) -> str:
    if not line.points:
        return ""
    places = [(_across(x, along), _up(y, height)) for along, height in line.points]
    step = "H{:.1f}V{:.1f}" if line.stepped else "L{:.1f} {:.1f}"
    path = "M{:.1f} {:.1f}".format(*places[0]) + "".join(step.format(*place) for place in places[1:])
    return f'<path class="line {line.style}" d="{path}"/>'


def _mark(mark: Mark, x: Axis, y: Axis) -> str:
    label = escape(mark.label)
    if mark.upright:
        at = _across(x, mark.value)
        line = f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        return f'{line}<text class="mark" x="{at - 6:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="end">{label}</text>'
    at = _up(y, mark.value)
    line = f'<path class="mark" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
    return f'{line}<text class="mark" x="{WIDTH - RIGHT - 4}" y="{at - 5:.1f}" text-anchor="end">{label}</text>'


def _number(value: float) -> str:
    """Short, without rounding errors: 0.001, 250, 1000."""
    return f"{value:.6g}"
