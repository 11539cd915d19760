"""Explain terms: the summands of a score. See docs/explain.md."""

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import InvalidScores
from animora_server.scoring import heuristic
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel
from animora_server.types import FloatArray, IntArray, Terms

MODEL_TERMS = (
    "gmf_id",
    "gmf_image",
    "gmf_caption",
    "mlp_user",
    "mlp_id",
    "mlp_image",
    "mlp_caption",
    "bias",
)


async def model_terms(
    model: ScoringModel, user_row: int, rows: IntArray, logits: FloatArray, deadline: float
) -> Terms:
    """The terms of a model's logits: float32 (m, 8), which add up to them.

    Args:
        model: The model that scored the posts.
        user_row: The user's row in the model.
        rows: int64 (m), the posts' catalog rows.
        logits: float32 (m), the posts' logits, imputed for posts without features.
        deadline: On the event loop's clock.

    Raises:
        ScoringFailed: The model cannot answer, or not before the deadline, or a term is not finite.
    """
    values = await model.explain(user_row, rows, deadline)
    if not np.isfinite(values).all():
        raise InvalidScores
    # An imputed logit comes from no feature of the post.
    featureless = ~model.has_features(rows)
    values[featureless] = 0
    values[featureless, MODEL_TERMS.index("bias")] = logits[featureless]
    return Terms(MODEL_TERMS, values)


def heuristic_terms(formula: Heuristic, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> Terms:
    """The terms of the heuristic's values: float32 (m, 2), for the posts at rows int64 (m).

    Args:
        formula: The heuristic.
        snapshot: The catalog snapshot.
        rows: int64 (m), the posts' rows in it.
        now: Unix time in seconds.
    """
    return Terms(heuristic.TERMS, formula.terms(snapshot, rows, now).astype(np.float32))
