"""The figures of `make bench-gpu`, their goals, and the table. Imports nothing that must be installed."""

from collections.abc import Mapping
from dataclasses import dataclass

NOT_MEASURED = "not measured"

DTYPES = ("float32", "bfloat16", "float16")
ROWS, SMALL_ROWS = (1_024, 1_048_576), (256, 2_048)  # pairs of a batch
# Captured: by CUDA graphs on a GPU; on a CPU, batches that are padded as for a graph.
MODES = ("captured", "eager")
NETWORKS = ("8 factors", "64 factors")  # of training: that of `make bench-train`, and the wide one
MAX_CALL, MIN_PAIRS, MIN_SAMPLES = 80, 1e9, 50e6  # goals: µs, pairs/s, samples/s


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table.

    Attributes:
        name: What is measured; unique.
        unit: Unit of the value.
        at_least: The goal, if large values are good.
        at_most: The goal, if small values are good.
    """

    name: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal(self) -> str:
        """The goal as text; empty without one."""
        if self.at_least is not None:
            return f"≥ {number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {number(self.at_most)}"


def call_name(rows: int, dtype: str, mode: str) -> str:
    """The name of the time of a call, from NumPy arrays to NumPy arrays."""
    return f"scoring, a call of {rows:,} rows, {dtype}, {mode}"


def speed_name(rows: int, dtype: str, mode: str) -> str:
    """The name of the speed of the network alone, with inputs and outputs on the device."""
    return f"scoring, the network on {rows:,} rows, {dtype}, {mode}"


def training_name(network: str) -> str:
    """The name of the training speed of a network."""
    return f"training, {network}"


TESTS_PASSED, TESTS_FAILED = "tests of the CUDA path, passed", "tests of the CUDA path, failed"
CALLS, PAIRS, P50, P99 = "server, calls", "server, pairs", "server, latency p50", "server, latency p99"
IN_PYTHON, IN_KERNELS, IN_COPIES = (
    f"server, share of time {where}" for where in ("on the event loop", "in CUDA kernels", "in copies")
)


def figures(small: bool) -> tuple[Figure, ...]:
    """The rows of the table. Reduced sizes have no goals of speed."""
    few, many = SMALL_ROWS if small else ROWS
    kinds = [(dtype, mode) for dtype in DTYPES for mode in MODES]
    call, speed, samples = (None, None, None) if small else (MAX_CALL, MIN_PAIRS, MIN_SAMPLES)
    return (
        Figure(TESTS_PASSED, "tests"),
        Figure(TESTS_FAILED, "tests", at_most=0),
        *(Figure(call_name(few, *kind), "µs", at_most=call) for kind in kinds),
        *(Figure(call_name(many, *kind), "µs") for kind in kinds),
        *(Figure(speed_name(few, *kind), "pairs/s") for kind in kinds),
        *(Figure(speed_name(many, *kind), "pairs/s", at_least=speed) for kind in kinds),
        Figure(CALLS, "calls/s"),
        Figure(PAIRS, "pairs/s"),
        *(Figure(name, "ms") for name in (P50, P99)),
        *(Figure(name, "%") for name in (IN_PYTHON, IN_KERNELS, IN_COPIES)),
        *(Figure(training_name(network), "samples/s", at_least=samples) for network in NETWORKS),
    )


def number(value: float) -> str:
    """A value with three digits at least, and a comma between thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def table(rows: tuple[Figure, ...], measured: Mapping[str, float], device: str) -> str:
    """The table as text. A cell without a value is NOT_MEASURED."""
    cells = [("figure", device, "goal", "unit")]
    for row in rows:
        value = measured.get(row.name)
        cells.append((row.name, NOT_MEASURED if value is None else number(value), row.goal, row.unit))
    name, *middle, unit = (max(map(len, column)) for column in zip(*cells, strict=True))
    return "\n".join(
        "  ".join((first.ljust(name), *map(str.rjust, between, middle), last.ljust(unit))).rstrip()
        for first, *between, last in cells
    )
