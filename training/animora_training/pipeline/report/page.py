"""Renders a run's record as one HTML page."""

import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from animora_training.data.arrays import replace_file
from animora_training.pipeline.record import STAGES, ReliabilityBin, RunRecord
from animora_training.pipeline.report import charts, texts
from animora_training.pipeline.report.figures import calibration, curves, ranking

# The metrics of the headline.
LEADING = ("ndcg@10", "hr@10")
# Metrics for which larger is better; the best value of other metrics is not highlighted.
LARGER_IS_BETTER = ("hr", "ndcg", "mrr", "recall", "precision", "map", "auc", "coverage")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in the table of metrics, and whether it is the best of its column."""

    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class QualityTable:
    """A table with a column for each metric and a row for each model."""

    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Headline:
    """A headline metric of the fit's model, and its best rival, if there is one."""

    metric: str
    value: float
    rival: str | None
    rival_value: float


def write_report(record: RunRecord, path: Path) -> None:
    """Writes the report, atomically.

    Raises:
        CannotWrite: The disk is full, or failed.
    """
    with replace_file(path) as file:
        file.write(render(record).encode())


def render(record: RunRecord) -> str:
    """The report as HTML; all texts of the record are escaped."""
    environment = Environment(
        loader=PackageLoader("animora_training.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for text in (
        texts.compact,
        texts.decimal,
        texts.duration,
        texts.large,
        texts.moment,
        texts.setting,
        texts.signed,
    ):
        environment.filters[text.__name__] = text
    found = headlines(record)
    return environment.get_template("report.html.j2").render(
        record=record,
        headlines=found,
        ranking=ranking(record, found[0].metric) if found else None,
        table=quality_table(record),
        curves=curves(record),
        calibration=calibration(record.reliability),
        calibration_error=calibration_error(record.reliability),
        stages={name: record.stage(name) for name in STAGES},
        size=charts,
    )


def headlines(record: RunRecord) -> list[Headline]:
    """The headline metrics of the fit's model, or else its first metric; empty without metrics."""
    name, own = next(iter(record.qualities.items()), ("", {}))
    found = []
    for metric in [metric for metric in LEADING if metric in own] or list(own)[:1]:
        rivals = [(value, rival) for rival, value in record.measured(metric).items() if rival != name]
        best, rival = max(rivals, default=(math.nan, None))
        found.append(Headline(metric, own[metric], rival, best))
    return found


def quality_table(record: RunRecord) -> QualityTable:
    """All metrics in the order in which they are first met."""
    metrics = tuple(dict.fromkeys(chain.from_iterable(record.qualities.values())))
    best = {metric: _best(list(record.measured(metric).values()), metric) for metric in metrics}
    rows = tuple(
        (
            name,
            tuple(
                Cell(texts.decimal(quality.get(metric)), quality.get(metric, math.nan) == best[metric])
                for metric in metrics
            ),
        )
        for name, quality in record.qualities.items()
    )
    return QualityTable(metrics, rows)


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Expected calibration error: |predicted - observed|, weighted by predictions (Naeini et al. 2015)."""
    predictions = sum(one.count for one in bins)
    if not predictions:
        return None
    return sum(one.count * abs(one.predicted - one.observed) for one in bins) / predictions


def _best(values: list[float], metric: str) -> float | None:
    """The highest of several, where more is better."""
    return max(values) if metric.startswith(LARGER_IS_BETTER) and len(values) > 1 else None
