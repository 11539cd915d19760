"""What `evaluate` and `compare` print and write of what they found."""

import json
import math
from pathlib import Path

from animora_artifact import Artifact
from animora_training.commands.comparisons import ComparisonOutcome
from animora_training.commands.console import output
from animora_training.commands.tables import cold_remark, cold_table, comparison_table, remarks
from animora_training.errors import CannotWrite
from animora_training.evaluation.network_ranking import UserRanks
from animora_training.evaluation.plot import draw


def write_outcome(outcome: ComparisonOutcome, plot: Path | None, json_file: Path | None) -> None:
    """Writes what was asked for.

    Raises:
        CannotWrite: A file cannot be written.
    """
    try:
        if plot is not None and outcome.comparison is not None:
            draw(outcome.comparison, plot)
        if json_file is not None:
            json_file.write_text(json.dumps(_without_nan(outcome.as_json()), indent=1) + "\n")
    except OSError as error:
        raise CannotWrite(f"{error.filename}: {error.strerror}") from error


def _without_nan(value: object) -> object:
    """The same, with null for what is not known: JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_outcome(outcome: ComparisonOutcome) -> None:
    """Tables and remarks."""
    if outcome.comparison is not None:
        output().print(comparison_table(outcome.comparison))
        for remark in remarks(outcome.comparison):
            output().print(remark, soft_wrap=True)
    if outcome.skipped:
        output().print(f"skipped {outcome.skipped:,} test pairs that the database cannot show")
    if outcome.cold is not None:
        output().print(cold_table(outcome.cold))
        output().print(cold_remark(outcome.cold), soft_wrap=True)


def print_counts(artifact: Artifact, ranks: UserRanks, unknown: int) -> None:
    """How many users were ranked, and how many were passed over; `unknown` of them for want of their pair."""
    output().print(
        f"{artifact.manifest.version}: {len(ranks.ranks):,} users ranked; skipped {ranks.skipped:,} whom the "
        f"model does not know and {unknown:,} whose pair the database cannot show"
    )
