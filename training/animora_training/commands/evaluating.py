"""`animora-train evaluate | compare`: metrics of a version, and a comparison with baselines."""

import math
from pathlib import Path
from typing import Annotated

import typer

from animora_training.commands.console import EXIT_USAGE, fail, output, progress_bars, report_errors
from animora_training.commands.options import (
    PLOT_SUFFIXES,
    DatabasePasswordFile,
    DatabaseUrl,
    EvaluationProtocol,
    SplitKind,
    Store,
)
from animora_training.evaluation.budget import Budget

Version = Annotated[str, typer.Argument(help="A published version; the active one by default.")]
NcfFolder = Annotated[
    Path | None, typer.Option("--ncf", help="Rank the test pairs of this folder in the NCF text format.")
]


def evaluate(
    database_url: DatabaseUrl,
    store: Store,
    version: Version = "",
    ncf: NcfFolder = None,
    database_password_file: DatabasePasswordFile = None,
) -> None:
    """Evaluate a published version as it is served, on the data of the views."""
    import numpy as np

    from animora_training.commands.comparisons import print_counts
    from animora_training.commands.inputs import read_database, read_version
    from animora_training.commands.tables import (
        candidates_remarks,
        hold_out_table,
        quality_table,
        recorded_qualities,
    )
    from animora_training.data.database import Database
    from animora_training.data.split import leave_one_out
    from animora_training.evaluation.comparison import NEUCF
    from animora_training.evaluation.network_ranking import FEWEST_NEGATIVES, TOP, rank_with_artifact
    from animora_training.importers.ncf_evaluation import read_held_out
    from animora_training.modeling.config import FitConfig

    with report_errors():
        artifact = read_version(store, version)
        with progress_bars() as show:
            dataset = read_database(Database(database_url, database_password_file), show)
        if ncf is not None:
            read = read_held_out(ncf, dataset)
            everything, unknown, fewest = read.held_out, read.skipped, 1
        else:
            rng = np.random.default_rng(0)
            everything = leave_one_out(dataset, FitConfig().holdout_negatives, rng).held_out
            unknown, fewest = 0, FEWEST_NEGATIVES
        held_out = everything.with_negatives(fewest)
        ranks = rank_with_artifact(artifact, dataset, held_out)
    honest = recorded_qualities(artifact).get(NEUCF) if ncf is None else ranks.quality
    if ncf is not None:
        output().print(quality_table({f"NeuCF, test pairs of {ncf.name}": ranks.quality}))
    else:
        output().print(hold_out_table(artifact, {"NeuCF, on pairs it was trained on": ranks.quality}))
    print_counts(artifact, ranks, unknown)
    for remark in candidates_remarks(ranks.candidates, len(everything.users) - len(held_out.users)):
        output().print(remark, highlight=False, soft_wrap=True)
    if honest is None:
        output().print(
            f"{artifact.manifest.version} has no hold-out metrics: evaluate its recipe with `compare`"
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
            help="Without --ncf: refit the version's recipe on a part of the data, by default all but each "
            "user's latest interaction, and evaluate it on the rest."
        ),
    ] = None,
    protocol: Annotated[
        EvaluationProtocol | None,
        typer.Option(
            help="Instead of --split. `latest` is order-aware: each user's latest interaction, or with --ncf "
            "the folder's test pair, is ranked among 99 sampled posts, or the folder's negatives, and among "
            "all posts less the user's training posts, whenever they were created. The last line is "
            "hr@10=… ndcg@10=… full_ndcg@10=…."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help=f"Write a plot to this file: {' or '.join(PLOT_SUFFIXES)}.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all metrics to this file.")] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="Maximum number of fits to tune each baseline.")
    ] = Budget().attempts,
    tuning_seconds: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Start no further fit of a baseline after this time; results then vary from run to run.",
        ),
    ] = math.inf,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, and of the baselines' hold-out and fits.")
    ] = 0,
    database_password_file: DatabasePasswordFile = None,
) -> None:
    """Compare NeuCF with popularity, the heuristic, EASE, iALS and MF on pairs that none was trained on."""
    if ncf is not None and split is not None:
        raise fail("--split: --ncf defines a split already; use one of the two options", EXIT_USAGE)
    if protocol is not None and split is not None:
        raise fail("--split: --protocol defines a split already; use one of the two options", EXIT_USAGE)
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise fail(f"--plot: must end in {' or '.join(PLOT_SUFFIXES)}, not {plot.name!r}", EXIT_USAGE)
    if plot is not None and split == SplitKind.COLD_POSTS:
        raise fail("--plot: --split cold-posts has no plot", EXIT_USAGE)
    from animora_training.commands.comparisons import (
        Setup,
        evaluate_on_folder,
        evaluate_on_latest,
        evaluate_on_split,
        print_outcome,
        write_outcome,
    )
    from animora_training.commands.inputs import read_database, read_version
    from animora_training.commands.tables import latest_line
    from animora_training.data.database import Database
    from animora_training.evaluation.comparison import Tuning
    from animora_training.evaluation.recipes import RECIPES

    with report_errors():
        with progress_bars() as show:
            tuning = Tuning(RECIPES, Budget(attempts, tuning_seconds), seed)
            artifact = read_version(store, version)
            database = Database(database_url, database_password_file)
            setup = Setup(artifact, read_database(database, show), tuning, show)
            if ncf is not None:
                outcome = evaluate_on_folder(setup, ncf)
            elif protocol is not None:
                outcome = evaluate_on_latest(setup)
            else:
                outcome = evaluate_on_split(setup, split or SplitKind.LEAVE_ONE_OUT)
        write_outcome(outcome, plot, json_file)
    print_outcome(outcome)
    for file in (plot, json_file):
        if file is not None:
            output().print(f"wrote {file}")
    if protocol is not None and outcome.comparison is not None:
        output().print(latest_line(outcome.comparison), highlight=False)
