"""Every choice of a fit, in one frozen value that ends up in the manifest."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from animora_training.errors import InvalidOption

# Beyond these a fit ends for want of memory or never; what has no bound may be any number.
WIDEST, LONGEST, MOST, ANY = 4096, 10_000, 1_000_000, math.inf
COUNTS = {
    **dict.fromkeys(("factors", "mlp_embedding", "feature_width"), WIDEST),
    **dict.fromkeys(("max_epochs", "patience", "warm_epochs", "als_iterations"), LONGEST),
    "holdout_negatives": MOST,
    **dict.fromkeys(("users_per_step", "posts_per_step", "pairs_in_memory"), ANY),
}
RATES = ("drop_rate", "history_drop", "dropout")
AMOUNTS = (
    *("warmup_epochs", "l2", "drop_scale", "user_learning_rate"),
    *("als_alpha", "als_regularisation"),
)


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How NeuCF is built and trained.

    Attributes:
        factors: Width of the GMF branch.
        mlp_embedding: Width of a user's and of a post's embedding in the MLP branch.
        hidden: Widths of the MLP's layers, the first one first.
        feature_width: Width to which an image and a caption embedding are projected in each branch.
        factorisation: What the GMF branch starts from: alternating least squares, or chance.
        als_iterations: Iterations of the alternating least squares.
        als_alpha: Weight of a positive in them, beside 1 for others; 0 has it tuned on the hold-out.
        als_regularisation: L2 in them; 0 has it tuned on the hold-out.
        pairs_in_memory: Interactions at most that are held in memory: the posts' factors are learnt from so
            many, and popularity and the heuristic count so many. Of more, those of some users have to do.
        loss: Log loss over all pairs, softmax over a user's posts, or Bayesian personalised ranking.
        users_per_step: Users in a step, each with all positives.
        posts_per_step: Posts drawn for a step, as negatives that its users share; a catalog that has fewer
            is taken whole.
        max_epochs: Epochs over which the learning rate falls to zero.
        patience: Epochs without a better hold-out before training ends.
        warm_epochs: Epochs of a fit that starts from an earlier version.
        learning_rate: Adam's, at its highest.
        user_learning_rate: Adam's for users' embeddings, as a multiple: a user is seen once an epoch.
        warmup_epochs: Epochs over which the learning rate rises.
        l2: Squared length of the vectors of users and posts in the loss, for each user.
        history_drop: Share of a user's history that is hidden from the sum that describes the user.
        dropout: Share of the MLP's first hidden layer that is dropped for each user of a step.
        drop_rate: Chance that a frequent post's id is dropped for the unknown row in a step.
        drop_scale: Interactions at which a post's id is dropped in half of the steps, beside drop_rate.
        holdout_negatives: Sampled negatives that a held-out post is ranked among.
        precision: Of the forward and the backward pass; auto is bfloat16 on GPUs that have it and float32
            elsewhere. Tables, moments and sums of the loss are float32 always.
        embeddings: Whether the network takes the posts' image and caption embeddings.
        seed: Of every random choice.
    """

    factors: int = 8
    mlp_embedding: int = 32
    hidden: tuple[int, ...] = (32, 16, 8)
    feature_width: int = 32
    factorisation: Literal["als", "none"] = "als"
    als_iterations: int = 15
    als_alpha: float = 0.0
    als_regularisation: float = 0.0
    pairs_in_memory: int = 20_000_000
    loss: Literal["logistic", "softmax", "bpr"] = "logistic"
    users_per_step: int = 64
    posts_per_step: int = 4096
    max_epochs: int = 10
    patience: int = 3
    warm_epochs: int = 2
    learning_rate: float = 0.01
    user_learning_rate: float = 5.0
    warmup_epochs: float = 1.0
    l2: float = 1.0
    history_drop: float = 0.5
    dropout: float = 0.0
    drop_rate: float = 0.02
    drop_scale: float = 1.0
    holdout_negatives: int = 99
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    embeddings: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            InvalidOption: Names the field.
        """
        for name, largest in COUNTS.items():
            if getattr(self, name) < 1:
                raise InvalidOption(name, "must be at least 1")
            if getattr(self, name) > largest:
                raise InvalidOption(name, f"must be at most {largest}")
        if not self.hidden or not 1 <= min(self.hidden) <= max(self.hidden) <= WIDEST:
            raise InvalidOption("hidden", f"must name at least one layer, each 1 to {WIDEST} wide")
        if not 0 < self.learning_rate < 1:
            raise InvalidOption("learning_rate", "must lie between 0 and 1")
        for name in RATES:
            if not 0 <= getattr(self, name) < 1:
                raise InvalidOption(name, "must be at least 0 and below 1")
        for name in AMOUNTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidOption(name, "must be a number and not negative")

    @classmethod
    def from_choices(cls, choices: Sequence[str], seed: int) -> "FitConfig":
        """The defaults with some fields changed.

        Args:
            choices: Texts NAME=VALUE; layers as in hidden=64,32.
            seed: Of every random choice.

        Raises:
            InvalidOption: A name is unknown or a value cannot be used.
        """
        names = [field.name for field in fields(cls) if field.name != "seed"]
        values: dict[str, str | int | list[str]] = {"seed": seed}
        for choice in choices:
            name, equals, value = choice.partition("=")
            if not equals or name not in names:
                raise InvalidOption("set", f"{choice!r} is not NAME=VALUE with one of {', '.join(names)}")
            values[name] = value.split(",") if name == "hidden" else value
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=True)[0]
            raise InvalidOption(str(first["loc"][0]), f"{first['msg']}, not {first['input']!r}") from error

    def hyperparameters(self) -> dict[str, str | int | float | bool | list[int]]:
        """The fields as a manifest keeps them."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
