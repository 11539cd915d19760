"""Plot of a comparison: NDCG by list length, confidence intervals, calibration, popularity."""

from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator, PercentFormatter

from animora_training.evaluation.comparison import CHOSEN_BY, NEUCF, Comparison
from animora_training.evaluation.measures import CUTOFFS

# Palette for colour-blind readers (Okabe and Ito 2008); NeuCF is the darkest and thickest.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


def draw(comparison: Comparison, path: Path) -> None:
    """Writes a figure with four panels; the suffix of the path, .png or .svg, sets the format."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{NEUCF} beside the baselines: {comparison.split.name}", fontweight="bold")
    (lengths, differences), (probabilities, popularity) = figure.subplots(2, 2)
    _lengths(lengths, comparison)
    _differences(differences, comparison)
    _probabilities(probabilities, comparison)
    _popularity(popularity, comparison)
    figure.savefig(path, dpi=130)


def _lengths(axes: Axes, comparison: Comparison) -> None:
    axes.set_title("Full ranking: how good the first K posts are")
    for colour, result in zip(_colours(comparison), comparison.results, strict=True):
        means = result.means()["full"]
        values = [means[f"ndcg@{cutoff}"] for cutoff in CUTOFFS]
        width = 2.5 if result.name == NEUCF else 1.5
        # Dashed: popularity may hide the heuristic.
        style = "o--" if result.name == "popularity" else "o-"
        axes.plot(CUTOFFS, values, style, color=colour, label=result.name, linewidth=width, markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(CUTOFFS, [str(cutoff) for cutoff in CUTOFFS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("K, posts shown")
    axes.set_ylabel("NDCG@K, all posts")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _differences(axes: Axes, comparison: Comparison) -> None:
    drawn = comparison.split.sampled.candidates.shape[1] - 1
    axes.set_title(f"How much better {NEUCF} is, with 95 % intervals")
    others = comparison.results[1:]
    for place, (colour, other) in enumerate(zip(_colours(comparison)[1:], others, strict=True)):
        found = comparison.difference("sampled", CHOSEN_BY, other)
        error = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(found.mean, place, xerr=error, fmt="o", color=colour, capsize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(others)), [other.name for other in others])
    axes.invert_yaxis()
    axes.set_xlabel(f"NDCG@10 among {drawn} drawn posts: {NEUCF} minus the baseline")


def _probabilities(axes: Axes, comparison: Comparison) -> None:
    likes = comparison.likes
    axes.set_title(f"Does it happen as often as {NEUCF} says? (error {likes.error:.4f})")
    shown = (likes.predicted > 0) & (likes.observed > 0)
    if shown.any():
        both = np.concatenate((likes.predicted[shown], likes.observed[shown]))
        ends = (both.min() / 2, min(both.max() * 2, 1.0))
        axes.plot(ends, ends, color="black", linewidth=0.8, label="as often as said")
        axes.plot(likes.predicted[shown], likes.observed[shown], "o-", color=COLOURS[0], label=NEUCF)
        axes.axhline(likes.base_rate, color="grey", linestyle=":", label="base rate")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(frameon=False)
    axes.set_xlabel("mean probability of a bin")
    axes.set_ylabel("share liked")


def _popularity(axes: Axes, comparison: Comparison) -> None:
    axes.set_title("What the first ten posts of all users show")
    history = comparison.results[0].lists.history_popularity
    for place, (colour, result) in enumerate(zip(_colours(comparison), comparison.results, strict=True)):
        axes.barh(place - 0.2, result.lists.popularity, 0.4, color=colour)
        axes.barh(place + 0.2, result.lists.coverage, 0.4, color=colour, alpha=0.4)
    shades: list[Artist] = [
        Patch(color="black", label="mean percentile of popularity"),
        Patch(color="black", alpha=0.4, label="share of the catalog shown"),
    ]
    if not np.isnan(history):
        shades.append(axes.axvline(history, color="black", linestyle=":", label="popularity of likes before"))
    axes.set_yticks(range(len(comparison.results)), [one.name for one in comparison.results])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(
        handles=shades, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=8
    )


def _colours(comparison: Comparison) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(comparison.results))]
