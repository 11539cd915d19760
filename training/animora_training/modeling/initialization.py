"""Initial tables and layers of a training: random, or with a factorisation in the GMF branch."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from animora_training.memory import explain_out_of_memory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import ID_STD, NetworkShape, NeuCF
from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.modeling.sampling import seeded_generator
from animora_training.modeling.training_set import TrainingSet

if TYPE_CHECKING:  # it loads SciPy, which training from random tables does not need
    from animora_training.modeling.factorisation import Factorisation

# Logits of a factorisation's product of 1, which is about that of a positive.
LOGITS = 6.0
# Added to the logit of the base rate: positives concentrate on few pairs, so the typical pair is below it.
PRIOR = -1.0
POSTS_AT_ONCE = 1 << 12
USERS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Initialization:
    """Tables and layers that a trainer starts from.

    Attributes:
        network: The network. User rows do not include the histories; in a process group each process has its
            own rows only.
        history: floating (post rows, embedding), the vector that a post adds to each user who likes it.
    """

    network: NeuCF
    history: Tensor

    def to(self, device: torch.device) -> "Initialization":
        """The initialization on a device."""
        return Initialization(self.network.to(device), self.history.to(device))

    def shared(self, group: ProcessGroup) -> "Initialization":
        """Reduces the user table to the rows of this process, in place."""
        self.network.user_table = group.own_rows(self.network.user_table)
        return self

    def interpolate_to(self, other: "Initialization", share: float) -> "Initialization":
        """Interpolates linearly to another initialization of the same shape, see `interpolate`."""
        network = interpolate(self.network, other.network, share)
        return Initialization(network, torch.lerp(self.history, other.history, share))


@explain_out_of_memory(
    "the tables of users and posts", "lower factors or mlp_embedding by --set, or use more processes"
)
def new_initialization(
    data: TrainingSet,
    config: FitConfig,
    factorisation: "Factorisation | None" = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Initialization:
    """An untrained network, initialized from the config's seed.

    With a factorisation it ranks posts as the factorisation does, apart from the noise of the MLP branch.

    Args:
        data: Training data, for the shape and the base rate.
        config: The recipe.
        factorisation: Initial values of the GMF branch; random without one.
        group: The processes that share the user rows.

    Raises:
        OutOfMemory: The tables do not fit into memory.
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
    network.shape, network.user_table = shape, _user_rows(shape, config.seed, group)
    likelihood = len(data.posts) / max((shape.users - 1) * (shape.posts - 1), 1)
    with torch.no_grad():
        network.bias.fill_(_logit(likelihood) + PRIOR)
        if factorisation is not None:
            network.user_table[:, : config.factors] = group.own_rows(factorisation.users) * math.sqrt(LOGITS)
            network.post_table[:, : config.factors] = factorisation.posts * math.sqrt(LOGITS)
    return Initialization(network, torch.zeros_like(network.post_table))


def interpolate(first: NeuCF, second: NeuCF, share: float) -> NeuCF:
    """Interpolates linearly between the weights of two networks of the same shape.

    A fine-tuned network often generalises better part of the way back to its initialization (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022).

    Args:
        first: The result for a share of 0.
        second: The result for a share of 1.
        share: From 0 to 1.
    """
    theirs = second.state_dict()
    values = {name: torch.lerp(value, theirs[name], share) for name, value in first.state_dict().items()}
    return NeuCF.holding(first.shape, values).eval()


def _user_rows(shape: NetworkShape, seed: int, group: ProcessGroup) -> Tensor:
    """This process's rows of a random user table; the table does not depend on the number of processes."""
    table = torch.empty(group.row_count(shape.users), shape.embedding)
    for start in range(0, shape.users, USERS_AT_ONCE):
        rows = torch.arange(start, min(start + USERS_AT_ONCE, shape.users))
        drawn = torch.randn(len(rows), shape.embedding, generator=seeded_generator(seed, start))
        mine = group.owns(rows)
        table[group.local_rows(rows[mine])] = drawn[mine] * ID_STD
    table[:, shape.factors] = 0.0
    return table


def _logit(probability: float) -> float:
    bounded = min(max(probability, 1e-6), 0.5)
    return math.log(bounded / (1 - bounded))


def _unit_scale(embeddings: Tensor) -> float:
    """One over the median length of the nonzero embeddings (n, d); 1 without any."""
    # In chunks: the embeddings may be memory-mapped and larger than memory.
    pieces = torch.split(embeddings, POSTS_AT_ONCE)
    lengths = torch.cat([torch.linalg.vector_norm(piece.float(), dim=1) for piece in pieces])
    present = lengths[lengths > 0]
    return 1.0 / float(present.median()) if len(present) else 1.0
