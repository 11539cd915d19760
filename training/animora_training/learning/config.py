"""Every choice of a fit, in one frozen value that ends up in the manifest."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from pydantic import TypeAdapter, ValidationError

from animora_training.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How NeuCF is built and trained.

    Attributes:
        factors: Width of the GMF branch.
        mlp_embedding: Width of a user's and of a post's embedding in the MLP branch.
        hidden: Widths of the MLP's layers, the first one first.
        feature_width: Width to which an image and a caption embedding are projected in each branch.
        negatives: Sampled negatives for each positive.
        batch_positives: Positives in a step at most; a step scores `1 + negatives` times as many pairs.
        max_epochs: Epochs over which the learning rate falls to zero.
        patience: Epochs without a better hold-out before training ends.
        learning_rate: Adam's, at the start.
        warmup_epochs: Epochs over which the learning rate rises.
        weight_decay: Decoupled, on id embeddings and on what embeddings add to them, a unit of learning rate.
        drop_rate: Share of a frequent post's pairs in which its id is dropped for the unknown row.
        drop_scale: Interactions at which a post's id is dropped in half of its pairs, beside drop_rate.
        holdout_negatives: Sampled negatives that a held-out post is ranked among.
        embeddings: Whether the network takes the posts' image and caption embeddings.
        seed: Of every random choice.
    """

    factors: int = 8
    mlp_embedding: int = 32
    hidden: tuple[int, ...] = (32, 16, 8)
    feature_width: int = 32
    negatives: int = 8
    batch_positives: int = 4096
    max_epochs: int = 16
    patience: int = 3
    learning_rate: float = 0.02
    warmup_epochs: float = 1.0
    weight_decay: float = 0.3
    drop_rate: float = 0.02
    drop_scale: float = 1.0
    holdout_negatives: int = 99
    embeddings: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            InvalidOption: Names the field.
        """
        positive = ("factors", "mlp_embedding", "feature_width", "negatives", "batch_positives", "max_epochs")
        for name in (*positive, "patience", "holdout_negatives"):
            if getattr(self, name) < 1:
                raise InvalidOption(name, "must be at least 1")
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidOption("hidden", "must name at least one layer, each at least 1 wide")
        if not 0 < self.learning_rate < 1:
            raise InvalidOption("learning_rate", "must lie between 0 and 1")
        if not 0 <= self.drop_rate < 1:
            raise InvalidOption("drop_rate", "must be at least 0 and below 1")
        for name in ("warmup_epochs", "weight_decay", "drop_scale"):
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
