"""The baselines that are tuned beside NeuCF, and what is tried for each."""

from scipy.sparse import csr_matrix

from animora_training.judging.ease import MAX_POSTS, Ease, fit_ease
from animora_training.judging.matrix_factorization import fit_bpr, fit_ials, fit_logistic
from animora_training.judging.recipe import Axis, Choice, Recipe

FACTORS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


def _ease(histories: csr_matrix, choice: Choice, seed: int) -> Ease:
    # Nothing in it is random.
    return fit_ease(histories, choice["regularization"])


EASE = Recipe(
    "EASE",
    (Axis("regularization", tuple(round(10 ** (place / 5), 1) for place in range(5, 23)), start=8),),
    _ease,
    max_posts=MAX_POSTS,
)
IALS = Recipe(
    "iALS",
    (
        Axis("alpha", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), start=4),
        Axis("regularization", (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0), start=4),
        Axis("factors", FACTORS, start=4),
    ),
    fit_ials,
)
BPR = Recipe(
    "MF",
    (
        Axis("regularization", (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1), start=3),
        Axis("learning_rate", (0.005, 0.01, 0.02, 0.05, 0.1), start=2),
        Axis("factors", FACTORS, start=4),
    ),
    fit_bpr,
)
LOGISTIC = Recipe(
    "MF",
    (
        Axis("regularization", (0.2, 0.6, 2.0, 6.0, 20.0), start=2),
        Axis("learning_rate", (0.25, 0.5, 1.0, 2.0), start=2),
        Axis("factors", FACTORS, start=3),
    ),
    fit_logistic,
)
RECIPES = (EASE, IALS, BPR, LOGISTIC)
