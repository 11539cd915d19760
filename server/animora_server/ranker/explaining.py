"""Explaining: the terms that make up scores, and why a candidate is not in an order. See docs/explain.md."""

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import InvalidScores
from animora_server.ranker.candidates import Candidates
from animora_server.scoring import heuristic
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel
from animora_server.types import DropReason, FloatArray, IntArray, Terms

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
    """The terms of a model's logits, which they add up to.

    Args:
        model: What scored the posts.
        user_row: The user's row in it.
        rows: int64 (m), the posts' rows in the catalog.
        logits: float32 (m), the posts' logits: the user's median where the model knows nothing of a post.
        deadline: On the event loop's clock.

    Raises:
        ScoringFailed: The model cannot answer, or not before the deadline.
    """
    values = await model.explain(user_row, rows, deadline)
    if not np.isfinite(values).all():
        raise InvalidScores
    # The median belongs to no part of the post.
    uninformed = ~model.has_features(rows)
    values[uninformed] = 0
    values[uninformed, MODEL_TERMS.index("bias")] = logits[uninformed]
    return Terms(MODEL_TERMS, values)


def heuristic_terms(formula: Heuristic, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> Terms:
    """The terms of the heuristic's values at a time (unix seconds) for the posts at rows int64 (m)."""
    return Terms(heuristic.TERMS, formula.terms(snapshot, rows, now).astype(np.float32))


def dropped_posts(candidates: Candidates, number: int, order: IntArray) -> dict[int, DropReason]:
    """Why each distinct candidate of a query is not in an order, by ascending id.

    Args:
        candidates: Of several queries.
        number: Which of them; it has `explain`.
        order: int64 (n), the positions among all candidates of those that are in the answer.
    """
    span = candidates.slices[number]
    outranked = candidates.eligible[span].copy()
    outranked[order - span.start] = False
    dropped = dict.fromkeys(candidates.post_ids[span][outranked].tolist(), DropReason.OUTRANKED)
    return dict(sorted({**candidates.dropped_posts[number], **dropped}.items()))
