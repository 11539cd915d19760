"""Hyper-parameters of a fit, stored in the manifest."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from animora_training.errors import InvalidOption

# Upper bounds; larger values would run out of memory or never end.
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
        factorisation: Initialization of the GMF branch: alternating least squares (als) or random (none).
        als_iterations: ALS iterations.
        als_alpha: ALS weight of a positive; other pairs weigh 1. 0 tunes it on the hold-out.
        als_regularisation: ALS L2; 0 tunes it on the hold-out.
        pairs_in_memory: Maximum number of interactions from which ALS solves the posts' factors, and which
            popularity and the heuristic count. Beyond it a sample of the users is taken.
        loss: Log loss over all pairs, softmax over a user's posts, or Bayesian personalised ranking.
        users_per_step: Users in a step, each with all positives.
        posts_per_step: Posts sampled in a step as negatives that all of its users share; a smaller catalog is
            used whole.
        max_epochs: Maximum number of epochs, over which the learning rate falls to zero.
        patience: Epochs without improvement on the hold-out before training stops.
        warm_epochs: Epochs of a warm start.
        learning_rate: Peak learning rate of Adam.
        user_learning_rate: Factor on the learning rate for user embeddings: a user is seen once an epoch.
        warmup_epochs: Epochs over which the learning rate rises.
        l2: Weight of the squared length of user and post vectors in the loss, per user.
        history_drop: Share of a user's history that is left out of the user's history sum in a step.
        dropout: Dropout rate of the MLP's first hidden layer.
        drop_rate: Probability that a frequent post's id is replaced by the unknown row in a step.
        drop_scale: Number of interactions at which a post's id is dropped in half of the steps, in addition
            to drop_rate.
        holdout_negatives: Sampled negatives among which a held-out post is ranked.
        precision: Precision of the forward and backward pass. auto: bfloat16 on GPUs that support it, float32
            elsewhere. Tables, moments and loss sums are always float32.
        embeddings: Whether the network takes the posts' image and caption embeddings.
        seed: Seed of every random choice.
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
        """Validates the values.

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
        """The defaults with some fields changed by `--set`.

        Args:
            choices: Texts NAME=VALUE; a list is written as hidden=64,32.
            seed: Seed of every random choice.

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
        """The fields as plain values, for a manifest."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
