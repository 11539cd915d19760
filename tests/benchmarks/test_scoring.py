"""The scoring benchmark on few pairs."""

import json

import pytest
from rich.console import Console

from animora_training.modeling.config import FitConfig
from tests.benchmarks import scoring
from tests.benchmarks.results import update
from tests.support.compilers import needs_compiler


@needs_compiler
def test_both_sides_are_measured_and_the_figure_is_added_to_the_file(tmp_path):
    kept = tmp_path / "serving.json"
    kept.write_text('{"unary_over_bare": 0.6}')
    out = Console(record=True, width=110)
    update(kept, scoring.report(out, [scoring.measure(FitConfig(), requests=2, rounds=3)]))
    assert "400" in out.export_text()
    figures = json.loads(kept.read_text())
    assert figures["unary_over_bare"] == 0.6
    assert figures["scoring_over_torchscript"] > 0


@needs_compiler
def test_sides_with_different_scores_are_not_compared():
    with pytest.raises(RuntimeError, match="differ by"):
        scoring.measure(FitConfig(), requests=1, rounds=1, tolerance=-1.0)
