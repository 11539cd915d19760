"""Generates the tables of options, metrics and degradation: `python -m animora_server.reference docs`."""

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from animora_server.background import BackgroundLoop
from animora_server.configuration import Option, options, toml_value
from animora_server.degradation import ladder
from animora_server.observability.instruments import GaugeFamily, MultiprocessMode
from animora_server.observability.metrics import DeviceProcessMetrics, Metrics, WorkerMetrics
from animora_server.rollout_names import Band

# The generated table is between these two lines of a page.
BEGIN = "<!-- generated: make docs -->"
END = "<!-- end of what is generated -->"


def option_table() -> str:
    """The table of options."""
    return _table(
        ("Variable", "In the file", "Default", "Bounds", "Meaning"),
        (
            (
                f"`{option.variable}`",
                f"`{option.key}`",
                "" if option.field.default is None else f"`{toml_value(option.field.default)}`",
                _bounds(option),
                option.field.description or "",
            )
            for option in options()
        ),
    )


def _bounds(option: Option) -> str:
    """The bounds of a number, such as `above 0.001 to 3600`."""
    limits = {
        name: f"{value:,}"
        for limit in option.field.metadata
        for name in ("gt", "ge", "le")
        if (value := getattr(limit, name, None)) is not None
    }
    least = f"above {limits['gt']}" if "gt" in limits else limits.get("ge", "")
    return f"{least} to {limits['le']}" if "le" in limits else least


def metric_table() -> str:
    """The table of metrics, with known label values, and how values of several workers are merged."""
    registry = CollectorRegistry()
    methods = ("Rank", "BatchRank", "GetTimeline")
    metrics = Metrics(registry, "animora.ranking.v1.RankingService", methods, arms=("example",))
    metrics.calls.add_service("animora.ranking.v1.ModelService", ("ListModels", "GetModel", "ActivateModel"))
    WorkerMetrics(registry)
    DeviceProcessMetrics(registry)
    known = {metric.name: _labels(metric) for metric in registry.collect()}
    _record_examples(metrics)
    rows = []
    for metric in sorted(registry.collect(), key=lambda metric: metric.name):
        if not metric.samples:
            raise ValueError(f"{metric.name} has no sample to read its labels from: record an example of it")
        values = known[metric.name] | {"arm": {}}  # arms are configured
        labels = (_label(name, values.get(name, {})) for name in _labels(metric))
        mode = metric.mode if isinstance(metric, GaugeFamily) else MultiprocessMode.SUM
        name = f"`{_full_name(metric)}`"
        rows.append((name, metric.type, "; ".join(labels), metric.documentation, mode.value))
    return _table(("Metric", "Type", "Labels", "Meaning", "Of workers"), rows)


def ladder_table() -> str:
    """The table of the ladder of degradation."""
    return _table(("Step", "Methods", "When", "The reply", "Counted in"), ladder())


def with_table(page: str, table: str) -> str:
    """Replaces the generated part of a page.

    Raises:
        ValueError: The page lacks the two marker lines.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{table}\n{END}{tail}"


def pages() -> dict[str, str]:
    """The generated tables, by file name in docs/."""
    return {
        "configuration.md": option_table(),
        "metrics.md": metric_table(),
        "operation.md": ladder_table(),
    }


def write(docs: Path) -> None:
    """Updates the pages in a folder."""
    for name, table in pages().items():
        page = docs / name
        page.write_text(with_table(page.read_text(encoding="utf-8"), table), encoding="utf-8")


def _record_examples(metrics: Metrics) -> None:
    """Records a sample of each metric whose label values are not known beforehand."""
    metrics.models.active("v1", 0.0)
    metrics.models.rolled_back("v1", Band.ERRORS)
    metrics.background.watch(BackgroundLoop("model-watcher", lambda: asyncio.sleep(0, 0.0)))


def _labels(metric: Metric) -> dict[str, dict[str, None]]:
    """Label names and their values, in order of creation."""
    labels: dict[str, dict[str, None]] = {}
    for sample in metric.samples:
        for name, value in sample.labels.items():
            if name != "le":  # the bucket label of a histogram
                labels.setdefault(name, {})[value] = None
    return labels


def _label(name: str, values: Iterable[str]) -> str:
    listed = ", ".join(values)
    return f"`{name}`: {listed}" if listed else f"`{name}`"


def _full_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
