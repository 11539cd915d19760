"""The tunable baselines and their grids."""

from scipy.sparse import csr_matrix

from animora_training.evaluation.ease import MAX_POSTS, Ease, fit_ease
from animora_training.evaluation.matrix_factorization import fit_ials, fit_logistic
from animora_training.evaluation.recipe import Choice, GridAxis, Recipe


def _around(start: float, below: int, above: int) -> tuple[float, ...]:
    """A geometric grid with factor √2 around a start, rounded to four digits."""
    return tuple(float(f"{start * 2 ** (place / 2):.4g}") for place in range(-below, above + 1))


def _ease(histories: csr_matrix, choice: Choice, seed: int) -> Ease:
    # EASE is deterministic.
    return fit_ease(histories, choice["l2"])


EASE = Recipe(
    "EASE",
    (GridAxis("l2", _around(500.0, 12, 12), start=12),),
    _ease,
    max_posts=MAX_POSTS,
)
IALS = Recipe(
    "iALS",
    (
        GridAxis("l2", _around(0.06, 6, 10), start=6),
        GridAxis("alpha", _around(10.0, 8, 6), start=8),
    ),
    fit_ials,
)
MF = Recipe(
    "MF",
    (GridAxis("l2", _around(4.0, 6, 8), start=6),),
    fit_logistic,
)
RECIPES = (EASE, IALS, MF)
