"""Tables and remarks about metrics, for a terminal."""

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from animora_artifact import Artifact
from animora_training.evaluation.bootstrap import Difference
from animora_training.evaluation.calibration import Calibration
from animora_training.evaluation.cold_posts import ColdReport
from animora_training.evaluation.comparison import CHOSEN_BY, NEUCF, Comparison
from animora_training.evaluation.network_ranking import TOP, Quality

COLUMNS = (
    ("sampled", "hr@10"),
    ("sampled", "ndcg@10"),
    ("sampled", "mrr"),
    ("full", "hr@10"),
    ("full", "ndcg@10"),
    ("full", "recall@50"),
    ("full", "auc"),
)
COLD_COLUMNS = ("hr@10", "ndcg@10", "recall@10", "auc")


def recorded_qualities(artifact: Artifact) -> dict[str, Quality]:
    """Metrics of the fit's hold-out in the manifest, by model."""
    metrics = artifact.manifest.metrics
    prefixes = {NEUCF: "", "popularity": "popularity_", "heuristic": "heuristic_"}
    return {
        label: Quality(metrics[f"{prefix}hr@{TOP}"], metrics[f"{prefix}ndcg@{TOP}"])
        for label, prefix in prefixes.items()
        if f"{prefix}hr@{TOP}" in metrics and f"{prefix}ndcg@{TOP}" in metrics
    }


def hold_out_table(artifact: Artifact, others: dict[str, Quality] | None = None) -> Table:
    """Table of a version's hold-out metrics, followed by other metrics."""
    recorded = {f"{label}, hold-out": quality for label, quality in recorded_qualities(artifact).items()}
    return quality_table({**recorded, **(others or {})})


def quality_table(qualities: dict[str, Quality]) -> Table:
    """Table with a row for each model."""
    table = Table("", f"HR@{TOP}", f"NDCG@{TOP}", box=None)
    for label, quality in qualities.items():
        table.add_row(label, f"{quality.hit_ratio:.4f}", f"{quality.ndcg:.4f}")
    return table


def candidates_remarks(candidates: float | None, dropped: int) -> Iterator[str]:
    """Remarks about the number of candidates.

    Args:
        candidates: Mean number of candidates of a held-out post, itself included; None if none was ranked.
        dropped: Number of users left out for too few candidates.
    """
    if candidates is not None:
        ranked = f"each ranked among {candidates:.1f} posts on average"
        few = candidates <= 2 * TOP
        yield (f"{ranked}: with so few, HR@{TOP} and NDCG@{TOP} are high for any model" if few else ranked)
    if dropped:
        measured = "" if candidates is not None else ", so nothing was measured"
        yield f"left out {dropped:,} users with too few posts to rank theirs among{measured}"


def comparison_table(comparison: Comparison) -> RenderableType:
    """Tables of all models: all metrics, then NDCG by group of users."""
    return Group(_measures(comparison), "", _groups(comparison), "")


def remarks(comparison: Comparison) -> Iterator[str]:
    """Remarks on candidates, tuning, the difference to the best baseline, and calibration."""
    yield from candidates_remarks(comparison.split.sampled.mean_candidates, comparison.split.dropped)
    for name, attempt in comparison.tuned.items():
        choice = ", ".join(f"{axis} {value:g}" for axis, value in attempt.choice.items())
        yield f"{name} was tuned to {choice}: NDCG@10 {attempt.ndcg:.4f} on a hold-out from its training data"
    for name, reason in comparison.left_out.items():
        yield f"{name} is left out: {reason}"
    best = comparison.best_baseline
    for measure in (CHOSEN_BY, "hr@10"):
        found = comparison.difference("sampled", measure, best)
        yield _difference(measure.upper(), f"{best.name}, the best baseline", found)
    yield _calibration(comparison.likes)


def latest_line(comparison: Comparison) -> str:
    """NeuCF's metrics of the protocol `latest`: among sampled posts, and among all posts."""
    means = comparison.results[0].means()
    sampled, full = means["sampled"], means["full"]
    return (
        f"hr@{TOP}={sampled[f'hr@{TOP}']:.4f} ndcg@{TOP}={sampled[f'ndcg@{TOP}']:.4f} "
        f"full_ndcg@{TOP}={full[f'ndcg@{TOP}']:.4f}"
    )


def cold_table(report: ColdReport) -> Table:
    """Table of metrics on cold posts."""
    title = (
        f"{report.posts:,} cold posts (embeddings known, id unknown), {report.users:,} users who like some"
    )
    table = Table(box=None, title=f"\n{title}", title_justify="left", title_style="")
    table.add_column("", no_wrap=True)
    for scope in ("among cold", "among all"):
        for measure in COLD_COLUMNS:
            table.add_column(f"{measure.upper()}\n{scope}", justify="right")
    means = report.means()
    for name in report.among_cold:
        rows = (means["among_cold"][name], means["among_all"][name])
        table.add_row(name, *(_number(row[measure]) for row in rows for measure in COLD_COLUMNS))
    return table


def cold_remark(report: ColdReport) -> str:
    """The difference to popularity on cold posts, with its interval."""
    found = report.difference("among_cold", CHOSEN_BY, NEUCF)
    return _difference(f"{CHOSEN_BY.upper()} among cold posts", "popularity", found)


def _measures(comparison: Comparison) -> Table:
    drawn = comparison.split.sampled.candidates.shape[1] - 1
    table = Table(box=None, title=_title(comparison), title_justify="left", title_style="")
    table.add_column("")
    for kind, measure in COLUMNS:
        among = f"of {drawn + 1}" if kind == "sampled" else "of all"
        table.add_column(f"{measure.upper()}\n{among}", justify="right")
    for heading in ("catalog\nshown", "popularity\nof lists"):
        table.add_column(heading, justify="right")
    for result in comparison.results:
        means = result.means()
        table.add_row(
            result.name,
            *(_number(means[kind][measure]) for kind, measure in COLUMNS),
            f"{result.lists.coverage:.1%}",
            _number(result.lists.popularity, 3),
        )
    history = comparison.results[0].lists.history_popularity
    table.add_row("what they liked before", *[""] * (len(COLUMNS) + 1), _number(history, 3), style="dim")
    return table


def _title(comparison: Comparison) -> str:
    split = comparison.split
    return f"{split.name}: {len(split.task.users):,} users, {len(split.task.relevant[0]):,} posts to be found"


def _groups(comparison: Comparison) -> Table:
    groups = {name: rows for name, rows in comparison.split.groups().items() if rows.any()}
    table = Table(box=None)
    table.add_column(f"{CHOSEN_BY.upper()} of all posts")
    for name, rows in groups.items():
        table.add_column(f"{name}\n{int(rows.sum()):,} users", justify="right")
    for result in comparison.results:
        means = [result.means(rows)["full"][CHOSEN_BY] for rows in groups.values()]
        table.add_row(result.name, *(_number(mean) for mean in means))
    return table


def _difference(what: str, other: str, found: Difference) -> str:
    return (
        f"{what}, {NEUCF} minus {other}: {found.mean:+.4f}, standard "
        f"error {found.standard_error:.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f} "
        "(paired bootstrap)"
    )


def _calibration(likes: Calibration) -> str:
    return (
        f"{NEUCF}'s like probability, over all pairs of these users and posts: base rate "
        f"{likes.base_rate:.4f}, mean probability {likes.mean_probability:.4f}, calibration error "
        f"{likes.error:.4f}, Brier score {likes.brier:.4f}, log loss {likes.log_loss:.4f} (of the base rate "
        f"{likes.base_log_loss:.4f})"
    )


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
