"""Chart geometry: maps numbers to SVG positions, which the template draws."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Size and inner edges of a chart, in units of the SVG's viewBox.
WIDTH, HEIGHT = 440.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 424.0, 24.0, 218.0
# Height of a row in a ranking chart.
ROW = 40.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A position on an axis, with its label."""

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
        """An axis between round numbers around the values; 0 to 1 without values."""
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
        """An axis from epoch 1 to the last, which is at least 1, with ticks at whole numbers."""
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
    """A data point; the text is its tooltip."""

    x: float
    y: float
    text: str
    radius: float = 2.5


@dataclass(frozen=True, slots=True)
class Line:
    """A series of data points, with or without a line, in a style of the stylesheet."""

    name: str
    style: str
    samples: Sequence[Sample]
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Series:
    """A series in SVG positions: path data, and dots."""

    name: str
    style: str
    path: str
    dots: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in SVG positions.

    Attributes:
        key: Id within the page.
        title: Title.
        description: Text alternative for screen readers.
        labels: Labels of the x and the y axis.
        axes: The x and the y axis.
        series: The series.
        mark: Highlighted position on the x axis.
        level: Highlighted position on the y axis.
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
    """A row of a ranking chart: dot position, labels, and whether it is the fit's own model."""

    name: str
    position: float
    value: str
    difference: str
    leads: bool


@dataclass(frozen=True, slots=True)
class RankingChart:
    """Models by a metric, the best first, in SVG positions."""

    title: str
    description: str
    axis: ChartAxis
    rows: tuple[Row, ...]
    height: float


def draw(line: Line, axes: tuple[ChartAxis, ChartAxis]) -> Series:
    """Maps a series to positions. Points that are not finite are left out, as gaps in the line."""
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
    """The smallest step of 1, 2 or 5 times a power of ten with at most `wanted` steps in the span."""
    power = 10.0 ** math.floor(math.log10(span / wanted))
    return next(step * power for step in (1, 2, 5, 10) if step * power * wanted >= span * (1 - 1e-9))


def _label(value: float, decimals: int) -> str:
    plain = f"{value:.{decimals}f}"
    return plain if len(plain) <= 7 else f"{value:.3g}"
