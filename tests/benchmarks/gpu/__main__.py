"""`make bench-gpu`: tests, scoring, a saturated server and training on one GPU, in at most eight minutes.

It runs from a checkout, by a Python that has PyTorch, without an installation: a part whose packages are
missing is skipped, and a line says so. Each part has a share of the time. Without a GPU sizes are reduced.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.gpu.figures import figures, table
from tests.benchmarks.gpu.parts import PACKAGES, PARTS, run

SECONDS = 450.0  # of all parts; starting and stopping them adds some
RESULT = Path("docs/benchmarks/gpu.json")


def say(text: str) -> None:
    """Prints a line."""
    print(text, flush=True)  # noqa: T201


def measure(seconds: float, small: bool, names: list[str]) -> dict[str, float]:
    """Runs the named parts, each within its share of some seconds; returns the figures by name."""
    chosen = [part for part in PARTS if part.name in names]
    missing = {part.name: part.missing() for part in chosen}
    for name, packages in missing.items():
        if packages:
            say(f"{name}: skipped: {', '.join(packages)} not installed")
    measured: dict[str, float] = {}
    for part in chosen:
        if not missing[part.name]:
            share = seconds * part.share
            say(f"{part.name}: at most {share:.0f} s")
            began = time.monotonic()
            measured |= run(part, share, small, say)
            say(f"{part.name}: {time.monotonic() - began:.0f} s")
    return measured


def write(result: Path, device: str, torch_version: str, measured: Mapping[str, float]) -> None:
    """Writes the JSON; a figure that was not measured is null."""
    values = {
        row.name: {"value": measured.get(row.name), "unit": row.unit, "goal": row.goal}
        for row in figures(small=False)
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    content = {"device": device, "torch": torch_version, "figures": values}
    result.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    say(f"written to {result}")


def main() -> None:
    """Measures, prints the table, and writes the JSON of a whole run on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="reduced sizes, as on a CPU; no JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts")
    names = [part.name for part in PARTS]
    parser.add_argument("--part", action="append", choices=names, help="a part to run; all by default")
    parser.add_argument("--result", type=Path, default=RESULT, help="where to write the JSON")
    chosen = parser.parse_args()
    sys.path.append(str(PACKAGES))
    if find_spec("torch") is None:
        parser.error("PyTorch is not installed")
    import torch  # noqa: PLC0415  # its absence has been reported

    is_gpu = torch.cuda.is_available()
    small = chosen.small or not is_gpu
    device = torch.cuda.get_device_name() if is_gpu else "CPU"
    sizes = "reduced sizes" if small else "full sizes"
    say(f"{device}, PyTorch {torch.__version__}, {sizes}, at most {chosen.seconds:.0f} s")
    measured = measure(chosen.seconds, small, chosen.part or names)
    say(table(figures(small), measured, f"{device}, small" if small else device))
    if is_gpu and not small and chosen.part is None and chosen.seconds >= SECONDS:
        write(chosen.result, device, torch.__version__, measured)


if __name__ == "__main__":
    main()
