"""Chooses, on the hold-out, how far to interpolate from the initial network to the trained one."""

from dataclasses import replace

from animora_artifact import Vocabulary
from animora_training.evaluation.network_ranking import PostScorer
from animora_training.modeling.initialization import interpolate
from animora_training.modeling.network import NeuCF
from animora_training.pipeline.export import FoldedNeuCF
from animora_training.pipeline.holdout import FitHoldOut, HoldOutResult

# Fractions of the way from the initial network to the trained one. With many likes 1 or nearly 1 is best;
# with few likes training overfits, and a quarter of the way still improves for many epochs.
SHARES = (1.0, 0.75, 0.5, 0.25)


def evaluate_interpolations(
    holdout: FitHoldOut, began: NeuCF, reached: NeuCF, vocabulary: Vocabulary
) -> HoldOutResult:
    """Evaluates the best interpolation between two networks, trying shares from 1 down while NDCG improves.

    Args:
        holdout: Evaluates the networks.
        began: The network before training.
        reached: The network now.
        vocabulary: Vocabulary of both networks.

    Returns:
        The result of the best interpolation; its `share` says which.
    """

    def choice(share: float) -> float:
        network = FoldedNeuCF(interpolate(began, reached, share)).eval()
        return holdout.choice(PostScorer(network, vocabulary, holdout.dataset)).ndcg

    best, quality = SHARES[0], choice(SHARES[0])
    for share in SHARES[1:]:
        at_share = choice(share)
        if at_share <= quality:
            break
        best, quality = share, at_share
    return replace(holdout.evaluate(interpolate(began, reached, best), vocabulary), share=best)
