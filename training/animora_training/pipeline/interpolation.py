"""How much of what training has changed is kept: chosen on the hold-out."""

from dataclasses import replace

from animora_artifact import Vocabulary
from animora_training.evaluation.network_ranking import PostScorer
from animora_training.modeling.initialization import between
from animora_training.modeling.network import NeuCF
from animora_training.pipeline.export import FoldedNeuCF
from animora_training.pipeline.holdout import FitHoldOut, Judged

# Of the way from a factorisation to what training from it came to. Where likes are many, all of it is best,
# or nearly; where they are few, training overfits long before a quarter of its way ceases to get better.
SHARES = (1.0, 0.75, 0.5, 0.25)


def judge_way(holdout: FitHoldOut, began: NeuCF, reached: NeuCF, vocabulary: Vocabulary) -> Judged:
    """The best network on the way from one to another: what it was found to be, and how far it went.

    Args:
        holdout: Whose choosing users choose.
        began: The network before training.
        reached: What it is now.
        vocabulary: Of both.
    """

    def choice(share: float) -> float:
        network = FoldedNeuCF(between(began, reached, share)).eval()
        return holdout.choice(PostScorer(network, vocabulary, holdout.dataset)).ndcg

    best, quality = SHARES[0], choice(SHARES[0])
    for share in SHARES[1:]:  # from the end on, for as long as it gets better
        at_share = choice(share)
        if at_share <= quality:
            break
        best, quality = share, at_share
    return replace(holdout.judge(between(began, reached, best), vocabulary), share=best)
