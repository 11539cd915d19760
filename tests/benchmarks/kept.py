"""Figures that benchmarks leave behind: what one measures anew, the others' stay."""

import json
from collections.abc import Mapping
from pathlib import Path

SERVING = Path("docs/benchmarks/serving.json")


def keep(file: Path, figures: Mapping[str, object]) -> None:
    """Writes figures into a JSON file that may hold others, which stay."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**kept, **figures}, indent=2) + "\n")
