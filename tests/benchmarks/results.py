"""JSON files of figures that several benchmarks share."""

import json
from collections.abc import Mapping
from pathlib import Path

SERVING = Path("docs/benchmarks/serving.json")


def update(file: Path, figures: Mapping[str, object]) -> None:
    """Writes figures into a JSON file; figures of other names stay."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**stored, **figures}, indent=2) + "\n")
