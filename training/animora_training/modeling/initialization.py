"""Where training starts: from a factorisation, or from chance."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from animora_training.memory import memory_for
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import Factorisation
from animora_training.modeling.network import ID_STD, NetworkShape, NeuCF
from animora_training.modeling.process_group import ALONE, ProcessGroup
from animora_training.modeling.sampling import seeded_generator
from animora_training.modeling.training_set import TrainingSet

# A factorisation's product, about 1 for a positive, counts as so many logits.
LOGITS = 6.0
# Logits by which an average pair is below the average of all pairs: positives pile up on few of them.
PRIOR = -1.0
POSTS_AT_ONCE = 1 << 12
USERS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Initialization:
    """What a trainer goes on from.

    Attributes:
        network: Its user rows are without histories, and of several processes each has its own ones only.
        history: floating (post rows, embedding), what a post adds to the users who like it.
    """

    network: NeuCF
    history: Tensor

    def to(self, device: torch.device) -> "Initialization":
        """The same on a device."""
        return Initialization(self.network.to(device), self.history.to(device))

    def shared(self, ranks: ProcessGroup) -> "Initialization":
        """What one of several processes takes of a start that has all user rows; changes it."""
        self.network.user_table = ranks.share(self.network.user_table)
        return self

    def toward(self, other: "Initialization", share: float) -> "Initialization":
        """What lies a share of the way from this one to another of the same shape, see `between`."""
        network = between(self.network, other.network, share)
        return Initialization(network, torch.lerp(self.history, other.history, share))


@memory_for("the tables of users and posts", "lower factors or mlp_embedding by --set, or use more processes")
def new_initialization(
    data: TrainingSet,
    config: FitConfig,
    factorisation: Factorisation | None = None,
    ranks: ProcessGroup = ALONE,
) -> Initialization:
    """An untrained network for the data, initialised by the seed.

    With a factorisation, it orders a user's posts as that does, but for the noise of an untrained MLP branch.

    Args:
        data: Decides the shape, and how likely a pair is.
        config: The recipe.
        factorisation: What the GMF branch starts from; chance where there is none.
        ranks: The processes that share the user rows.

    Raises:
        OutOfMemory: There is no memory for the tables.
    """
    shape = NetworkShape(
        users=data.users,
        posts=len(data.counts),
        factors=config.factors,
        mlp_embedding=config.mlp_embedding,
        hidden=config.hidden,
        feature_width=config.feature_width,
        image=data.image.shape[1],
        caption=data.caption.shape[1],
        image_scale=_unit_scale(data.image),
        caption_scale=_unit_scale(data.caption),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = NeuCF(replace(shape, users=0))
    network.shape, network.user_table = shape, _user_rows(shape, config.seed, ranks)
    likelihood = len(data.posts) / max((shape.users - 1) * (shape.posts - 1), 1)
    with torch.no_grad():
        network.bias.fill_(_logit(likelihood) + PRIOR)
        if factorisation is not None:
            network.user_table[:, : config.factors] = ranks.share(factorisation.users) * math.sqrt(LOGITS)
            network.post_table[:, : config.factors] = factorisation.posts * math.sqrt(LOGITS)
    return Initialization(network, torch.zeros_like(network.post_table))


def between(first: NeuCF, second: NeuCF, share: float) -> NeuCF:
    """The network whose numbers lie a share of the way from one network's to those of another.

    What was trained further often does better some way back to where it came from (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022).

    Args:
        first: With share 0, this one.
        second: With share 1, this one; of the same shape.
        share: From 0 to 1.
    """
    theirs = second.state_dict()
    values = {name: torch.lerp(value, theirs[name], share) for name, value in first.state_dict().items()}
    return NeuCF.holding(first.shape, values).eval()


def _user_rows(shape: NetworkShape, seed: int, ranks: ProcessGroup) -> Tensor:
    """This process's rows of a new user table, which are the same in any number of processes."""
    table = torch.empty(ranks.rows(shape.users), shape.embedding)
    for start in range(0, shape.users, USERS_AT_ONCE):
        rows = torch.arange(start, min(start + USERS_AT_ONCE, shape.users))
        drawn = torch.randn(len(rows), shape.embedding, generator=seeded_generator(seed, start))
        mine = ranks.owns(rows)
        table[ranks.local(rows[mine])] = drawn[mine] * ID_STD
    table[:, shape.factors] = 0.0
    return table


def _logit(probability: float) -> float:
    bounded = min(max(probability, 1e-6), 0.5)
    return math.log(bounded / (1 - bounded))


def _unit_scale(embeddings: Tensor) -> float:
    """One over the median length of the embeddings (n, d) that are there; 1 where none is."""
    # Piece by piece: they may be mapped, and larger than memory.
    pieces = torch.split(embeddings, POSTS_AT_ONCE)
    lengths = torch.cat([torch.linalg.vector_norm(piece.float(), dim=1) for piece in pieces])
    present = lengths[lengths > 0]
    return 1.0 / float(present.median()) if len(present) else 1.0
