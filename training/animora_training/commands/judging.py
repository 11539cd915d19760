"""`animora-train evaluate | compare`: how good a version is, and how much better than what is simpler."""

import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from animora_artifact import Artifact
from animora_training.commands.console import EXIT_USAGE, fail, output, plain_errors, progress_bars
from animora_training.commands.exams import Outcome, Setup, SplitKind, judged_on_folder, judged_on_split
from animora_training.commands.options import DatabaseUrl, Store
from animora_training.commands.reading import read_database, read_version
from animora_training.commands.tables import (
    candidates_remarks,
    cold_remark,
    cold_table,
    comparison_table,
    hold_out_table,
    quality_table,
    recorded_qualities,
    remarks,
)
from animora_training.data.split import leave_one_out
from animora_training.errors import CannotWrite
from animora_training.feeds.ncf_evaluation import read_held_out
from animora_training.judging.comparison import NEUCF, Tuning
from animora_training.judging.evaluation import FEWEST_NEGATIVES, TOP, UserRanks, rank_with_artifact
from animora_training.judging.plot import SUFFIXES, draw
from animora_training.judging.recipes import RECIPES
from animora_training.judging.tuning import Budget
from animora_training.learning.config import FitConfig

Version = Annotated[str, typer.Argument(help="A published version; the active one by default.")]
NcfFolder = Annotated[
    Path | None, typer.Option("--ncf", help="Rank the test pairs of this folder in the NCF text format.")
]


def evaluate(database_url: DatabaseUrl, store: Store, version: Version = "", ncf: NcfFolder = None) -> None:
    """Judge a published version with the network that is served, on embeddings from the views."""
    with plain_errors():
        artifact = read_version(store, version)
        with progress_bars() as show:
            dataset = read_database(database_url, show)
        if ncf is not None:
            read = read_held_out(ncf, dataset)
            everything, unknown, fewest = read.held_out, read.skipped, 1
        else:
            rng = np.random.default_rng(0)
            everything = leave_one_out(dataset, FitConfig().holdout_negatives, rng).held_out
            unknown, fewest = 0, FEWEST_NEGATIVES
        held_out = everything.beside(fewest)
        ranks = rank_with_artifact(artifact, dataset, held_out)
    honest = recorded_qualities(artifact).get(NEUCF) if ncf is None else ranks.quality
    if ncf is not None:
        output().print(quality_table({f"NeuCF, test pairs of {ncf.name}": ranks.quality}))
    else:
        output().print(hold_out_table(artifact, {"NeuCF, on pairs it was trained on": ranks.quality}))
    _print_counts(artifact, ranks, unknown)
    for remark in candidates_remarks(ranks.candidates, len(everything.users) - len(held_out.users)):
        output().print(remark, highlight=False, soft_wrap=True)
    if honest is None:
        output().print(
            f"{artifact.manifest.version} was measured on no hold-out: judge its recipe by `compare`"
        )
    else:
        output().print(f"hr@{TOP}={honest.hit_ratio:.4f} ndcg@{TOP}={honest.ndcg:.4f}")


def compare(  # noqa: PLR0913, PLR0917  # each one is an option of the command line
    database_url: DatabaseUrl,
    store: Store,
    version: Version = "",
    ncf: NcfFolder = None,
    split: Annotated[
        SplitKind | None,
        typer.Option(
            help="Without --ncf: fit the version's recipe again on a part of the data, by default "
            "without each user's latest interaction, and judge on the rest."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help=f"Draw it into this file: {', '.join(SUFFIXES)}.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every measure into this file.")
    ] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="Fits at most for tuning each recipe of a baseline.")
    ] = Budget().attempts,
    tuning_seconds: Annotated[
        float,
        typer.Option(
            min=0.0, help="Begin no further fit of a recipe after so long; what is chosen then varies."
        ),
    ] = math.inf,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the split, and of the baselines' hold-out and fits.")
    ] = 0,
) -> None:
    """Judge NeuCF beside popularity, the heuristic, EASE, iALS and MF on pairs that none of them has seen."""
    if ncf is not None and split is not None:
        raise fail("--split: the test pairs of --ncf are a split already; name one of them", EXIT_USAGE)
    if plot is not None and plot.suffix not in SUFFIXES:
        raise fail(f"--plot: must end in {' or '.join(SUFFIXES)}, not {plot.name!r}", EXIT_USAGE)
    if plot is not None and split == SplitKind.COLD_POSTS:
        raise fail("--plot: there is no picture of --split cold-posts", EXIT_USAGE)
    with plain_errors():
        with progress_bars() as show:
            tuning = Tuning(RECIPES, Budget(attempts, tuning_seconds), seed)
            artifact = read_version(store, version)
            setup = Setup(artifact, read_database(database_url, show), tuning, show)
            if ncf is not None:
                outcome = judged_on_folder(setup, ncf)
            else:
                outcome = judged_on_split(setup, split or SplitKind.LEAVE_ONE_OUT)
        _write(outcome, plot, json_file)
    _print_outcome(outcome)
    for file in (plot, json_file):
        if file is not None:
            output().print(f"wrote {file}")


def _write(outcome: Outcome, plot: Path | None, json_file: Path | None) -> None:
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


def _print_outcome(outcome: Outcome) -> None:
    if outcome.comparison is not None:
        output().print(comparison_table(outcome.comparison))
        for remark in remarks(outcome.comparison):
            output().print(remark, soft_wrap=True)
    if outcome.skipped:
        output().print(f"skipped {outcome.skipped:,} test pairs that the database cannot show")
    if outcome.cold is not None:
        output().print(cold_table(outcome.cold))
        output().print(cold_remark(outcome.cold), soft_wrap=True)


def _print_counts(artifact: Artifact, ranks: UserRanks, unknown: int) -> None:
    output().print(
        f"{artifact.manifest.version}: {len(ranks.ranks):,} users ranked; skipped {ranks.skipped:,} whom the "
        f"model does not know and {unknown:,} whose pair the database cannot show"
    )
