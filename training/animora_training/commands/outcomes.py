"""Prints and writes the results of `evaluate` and `compare`."""

from pathlib import Path

from animora_artifact import Artifact
from animora_training.commands.comparisons import ComparisonOutcome
from animora_training.commands.console import output, to_json
from animora_training.commands.tables import cold_remark, cold_table, comparison_table, remarks
from animora_training.errors import CannotWrite
from animora_training.evaluation.network_ranking import UserRanks
from animora_training.evaluation.plot import draw


def write_outcome(outcome: ComparisonOutcome, plot: Path | None, json_file: Path | None) -> None:
    """Writes the plot and the JSON file whose paths are given.

    Raises:
        CannotWrite: A file cannot be written.
    """
    try:
        if plot is not None and outcome.comparison is not None:
            draw(outcome.comparison, plot)
        if json_file is not None:
            json_file.write_text(to_json(outcome.as_json(), indent=1) + "\n")
    except OSError as error:
        raise CannotWrite(f"{error.filename}: {error.strerror}") from error


def print_outcome(outcome: ComparisonOutcome) -> None:
    """Prints tables and remarks."""
    if outcome.comparison is not None:
        output().print(comparison_table(outcome.comparison))
        for remark in remarks(outcome.comparison):
            output().print(remark, soft_wrap=True)
    if outcome.skipped:
        output().print(f"skipped {outcome.skipped:,} test pairs that are not in the database")
    if outcome.cold is not None:
        output().print(cold_table(outcome.cold))
        output().print(cold_remark(outcome.cold), soft_wrap=True)


def print_counts(artifact: Artifact, ranks: UserRanks, unknown: int) -> None:
    """Prints how many users were ranked and skipped; `unknown` users have no test pair in the database."""
    output().print(
        f"{artifact.manifest.version}: {len(ranks.ranks):,} users ranked; skipped {ranks.skipped:,} that the "
        f"model does not know and {unknown:,} whose test pair is not in the database"
    )
