"""The charts of a report: a ranking of the models, curves by epoch, and the reliability diagram."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from animora_training.pipeline.record import EpochRecord, ReliabilityBin, RunRecord, Stage
from animora_training.pipeline.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    ROW,
    TOP,
    Chart,
    ChartAxis,
    Line,
    RankingChart,
    Row,
    Sample,
    Tick,
    draw,
)
from animora_training.pipeline.report.texts import decimal, signed

# Radii in the reliability diagram: for a bin with all predictions, and the smallest and largest drawn.
WHOLE_DOT, SMALLEST_DOT, LARGEST_DOT = 18.0, 2.5, 9.0


def ranking(record: RunRecord, metric: str) -> RankingChart:
    """Models by a metric, the best first, each with its difference to the fit's model."""
    fit = next(iter(record.qualities))
    known = sorted(((value, name) for name, value in record.measured(metric).items()), reverse=True)
    own = record.measured(metric).get(fit, math.nan)
    axis = ChartAxis.over([value for value, _ in known], 18.0, 280.0)
    rows = tuple(
        Row(name, axis.at(value), decimal(value), "" if name == fit else signed(value - own), name == fit)
        for value, name in known
    )
    words = "; ".join(f"{row.name} {row.value}" for row in rows)
    return RankingChart(metric.upper(), f"{words}.", axis, rows, ROW * len(rows) + 26)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity that is recorded for every epoch.

    Attributes:
        key: Id of the chart within the page.
        name: Name of the quantity.
        stages: Stages whose epochs are drawn.
        of: Returns the value of an epoch.
        started: Whether to draw the factorisation's value as the level at which training started.
    """

    key: str
    name: str
    stages: tuple[Stage, ...]
    of: Callable[[EpochRecord], float | None]
    started: bool = False


QUANTITIES = (
    Quantity("ndcg", "NDCG@10", ("hold-out",), lambda epoch: epoch.ndcg10, started=True),
    Quantity("hr", "HR@10", ("hold-out",), lambda epoch: epoch.hr10, started=True),
    Quantity("loss", "Mean loss", ("hold-out", "refit"), lambda epoch: epoch.loss),
    Quantity("rate", "Learning rate", ("hold-out", "refit"), lambda epoch: epoch.learning_rate),
    Quantity("sweeps", "Loss of the factorisation", ("factorisation",), lambda epoch: epoch.loss),
)


def curves(record: RunRecord) -> list[Chart]:
    """A chart of each recorded quantity by epoch."""
    made = (_curve(record, quantity) for quantity in QUANTITIES)
    return [chart for chart in made if chart is not None]


def calibration(bins: tuple[ReliabilityBin, ...]) -> Chart | None:
    """The reliability diagram; None without predictions."""
    predictions = sum(one.count for one in bins)
    if not predictions:
        return None
    # Likes are rare: the axes end at the highest value.
    top = max(max(one.predicted, one.observed) for one in bins if one.count)
    axes = ChartAxis.over((0.0, top), LEFT, RIGHT), ChartAxis.over((0.0, top), BOTTOM, TOP)
    dots = [
        Sample(
            one.predicted,
            one.observed,
            f"predicted {one.predicted:.3f}, observed {one.observed:.3f}, {one.count:,} predictions",
            _radius(one.count / predictions),
        )
        for one in bins
        if one.count
    ]
    lines = (
        Line("perfect calibration", "ideal", [Sample(end, end, "") for end in (0.0, axes[0].high)]),
        Line("predictions: a larger dot is more of them", "hold-out", dots),
    )
    return Chart(
        key="calibration",
        title="Predicted and observed probability",
        description="; ".join(dot.text for dot in dots) + ".",
        labels=("mean predicted probability", "share that came true"),
        axes=axes,
        series=tuple(draw(line, axes) for line in lines),
    )


def _radius(share: float) -> float:
    return round(min(max(SMALLEST_DOT, WHOLE_DOT * math.sqrt(share)), LARGEST_DOT), 2)


def _curve(record: RunRecord, quantity: Quantity) -> Chart | None:
    lines = [line for line in (_line(record, quantity, stage) for stage in quantity.stages) if line.samples]
    if not lines:
        return None
    level = _start(record, quantity)
    x = ChartAxis.of_epochs(int(max(sample.x for line in lines for sample in line.samples)))
    values = [sample.y for line in lines for sample in line.samples]
    y = ChartAxis.over(values if level is None else [*values, level], BOTTOM, TOP)
    unit = "sweep" if quantity.stages == ("factorisation",) else "epoch"
    chosen = unit == "epoch" and x.low <= record.chosen_epoch <= x.high
    return Chart(
        key=quantity.key,
        title=f"{quantity.name} by {unit}",
        description=" ".join(_words(line) for line in lines),
        labels=(unit, ""),
        axes=(x, y),
        series=tuple(draw(line, (x, y)) for line in lines),
        mark=Tick(x.at(record.chosen_epoch), f"chosen: {record.chosen_epoch}") if chosen else None,
        level=None if level is None else Tick(y.at(level), f"factorisation: {decimal(level)}"),
    )


def _start(record: RunRecord, quantity: Quantity) -> float | None:
    """The factorisation's final value; None if it is not comparable."""
    sweeps = record.stage("factorisation")
    value = quantity.of(sweeps[-1]) if sweeps and quantity.started else None
    return value if value is not None and math.isfinite(value) else None


def _line(record: RunRecord, quantity: Quantity, stage: Stage) -> Line:
    samples = [
        Sample(epoch.epoch, value, f"{stage}, epoch {epoch.epoch}: {value:.4g}")
        for epoch in record.stage(stage)
        if (value := quantity.of(epoch)) is not None
    ]
    return Line(stage, stage, samples)


def _words(line: Line) -> str:
    finite = [sample for sample in line.samples if math.isfinite(sample.y)]
    if not finite:
        return f"{line.name}: no finite value."
    least, most = min(finite, key=lambda one: one.y), max(finite, key=lambda one: one.y)
    return (
        f"{line.name}: from {finite[0].y:.4g} at {finite[0].x:g} to {finite[-1].y:.4g} at {finite[-1].x:g}, "
        f"lowest {least.y:.4g} at {least.x:g}, highest {most.y:.4g} at {most.x:g}."
    )
