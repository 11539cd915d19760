"""Geometry of charts: numbers become positions, which the template draws."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The drawing's size and its inner edges, in the units of an SVG's viewBox.
WIDTH, HEIGHT = 440.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 424.0, 24.0, 218.0
# Of a ranking, a row for each name.
ROW = 40.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and what is written there."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class ChartAxis:
    """Maps numbers between low and high to positions between start and end."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, wanted: int = 5) -> "ChartAxis":
        """Reaches from a round number to a round number around the values; 0 to 1 without any."""
        numbers = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        least, most = min(numbers), max(numbers)
        size = max(abs(least), abs(most))
        step = _round_step(most - least if most - least > 1e-6 * size else size or 1.0, wanted)
        first, last = math.floor(least / step), math.ceil(most / step)
        last += first == last
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        marks = [(place * step, _label(place * step, decimals)) for place in range(first, last + 1)]
        return cls._with_ticks(marks, (marks[0][0], marks[-1][0]), (start, end))

    @classmethod
    def of_epochs(cls, last: int) -> "ChartAxis":
        """Reaches from epoch 1 to the last, which is at least 1, with ticks at whole numbers."""
        step = max(1, round(_round_step(last, 8)))
        shown = sorted({1, *range(step, last + 1, step)})
        margin = 0.5 if last == 1 else 0.0
        return cls._with_ticks([(n, str(n)) for n in shown], (1 - margin, last + margin), (LEFT, RIGHT))

    @classmethod
    def _with_ticks(
        cls, marks: Iterable[tuple[float, str]], limits: tuple[float, float], ends: tuple[float, float]
    ) -> "ChartAxis":
        bare = cls(*limits, *ends, ticks=())
        return cls(*limits, *ends, ticks=tuple(Tick(bare.at(value), label) for value, label in marks))

    def at(self, value: float) -> float:
        """The position of a number."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


@dataclass(frozen=True, slots=True)
class Sample:
    """A number to be drawn; the text is shown to whoever points at it."""

    x: float
    y: float
    text: str
    radius: float = 2.5


@dataclass(frozen=True, slots=True)
class Line:
    """Numbers that belong together, joined or as dots alone, in one of the stylesheet's styles."""

    name: str
    style: str
    samples: Sequence[Sample]
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Series:
    """A line as it is drawn: the data of an SVG path, and dots with x, y as positions."""

    name: str
    style: str
    path: str
    dots: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as it is drawn.

    Attributes:
        key: Names it within the page.
        title: What it shows.
        description: The same in words, for whoever cannot see it.
        labels: Of the x and of the y axis.
        axes: The x and the y axis.
        series: One for each line.
        mark: A place on the x axis that is pointed out.
        level: A place on the y axis that is pointed out.
    """

    key: str
    title: str
    description: str
    labels: tuple[str, str]
    axes: tuple[ChartAxis, ChartAxis]
    series: tuple[Series, ...]
    mark: Tick | None = None
    level: Tick | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A name in a ranking: its dot's position, what is written beside it, and whether the fit made it."""

    name: str
    position: float
    value: str
    difference: str
    leads: bool


@dataclass(frozen=True, slots=True)
class RankingChart:
    """Names by a number, the best first, as it is drawn."""

    title: str
    description: str
    axis: ChartAxis
    rows: tuple[Row, ...]
    height: float


def draw(line: Line, axes: tuple[ChartAxis, ChartAxis]) -> Series:
    """Leaves out what is not finite; the line has a gap there."""
    x, y = axes
    path, dots, pen_down = [], [], False
    for sample in line.samples:
        if not (math.isfinite(sample.x) and math.isfinite(sample.y)):
            pen_down = False
            continue
        dot = Sample(x.at(sample.x), y.at(sample.y), sample.text, sample.radius)
        path.append(f"{'L' if pen_down else 'M'}{dot.x:g} {dot.y:g}")
        dots.append(dot)
        pen_down = True
    return Series(line.name, line.style, " ".join(path) if line.joined else "", tuple(dots))


def _round_step(span: float, wanted: int) -> float:
    """The smallest of 1, 2 and 5 times powers of ten that divides the span into no more than wanted."""
    power = 10.0 ** math.floor(math.log10(span / wanted))
    return next(step * power for step in (1, 2, 5, 10) if step * power * wanted >= span * (1 - 1e-9))


def _label(value: float, decimals: int) -> str:
    plain = f"{value:.{decimals}f}"
    return plain if len(plain) <= 7 else f"{value:.3g}"
