"""A model of each user's next event: the history encoder, and two vectors of each post."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from animora_training.modeling.history_encoder import EncoderShape, HistoryEncoder
from animora_training.modeling.network import NetworkShape, PostFeatures

ID_STD = 0.05


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """How the sequence model is built and trained.

    Attributes:
        length: Number of latest events that are encoded.
        taste: Width of a post's taste vector, and of the vector that the encoding is compared with.
        sums: Number of weighted sums of the encoder.
        heads: Number of attention heads of the encoder.
        windows_per_step: Windows in a step, each of `length` events.
        negatives: Posts sampled in a step as negatives that all of its events share; a smaller catalog is
            used whole.
        epochs: Number of epochs, over which the learning rate falls to zero.
        learning_rate: Peak learning rate of Adam.
        warmup_epochs: Epochs over which the learning rate rises.
        dropout: Dropout rate of the events, the encoding and the encoder's hidden layer.
        drop_rate: See FitConfig.
        drop_scale: See FitConfig.
        seed: Seed of every random choice.
    """

    length: int = 50
    taste: int = 64
    sums: int = 6
    heads: int = 2
    windows_per_step: int = 128
    negatives: int = 768
    epochs: int = 10
    learning_rate: float = 0.002
    warmup_epochs: float = 1.0
    dropout: float = 0.2
    drop_rate: float = 0.02
    drop_scale: float = 1.0
    seed: int = 0


class SequenceModel(nn.Module):
    """Logits of a user's next post: the inner product of the encoding with the post's vector, plus a bias.

    Like the parts of NeuCF, a post's vectors are the row of its id plus what its embeddings add. The tables
    are buffers, not parameters: a step updates only the rows that it touches. Row 0 is the unknown post.

    Attributes:
        taste_table: floating (posts, taste): what a post says about those who interact with it.
        post_table: floating (posts, taste + 1): the vector that encodings are compared with, and the bias.
    """

    def __init__(self, shape: NetworkShape, config: SequenceConfig) -> None:
        super().__init__()
        width = config.taste
        self.taste_table: Tensor
        self.post_table: Tensor
        self.register_buffer("taste_table", torch.randn(shape.posts, width) * ID_STD)
        self.register_buffer("post_table", torch.randn(shape.posts, width + 1) * ID_STD)
        self.post_table[:, -1] = 0.0
        self.taste_features = PostFeatures(shape, width)
        self.post_features = PostFeatures(shape, width + 1)
        encoder = EncoderShape(config.length, width, config.sums, config.heads, kinds=1, output=width)
        self.encoder = HistoryEncoder(encoder, config.dropout)
        # The encoding is the only part of a logit that depends on the user: it must not start at zero.
        nn.init.xavier_uniform_(self.encoder.output.weight)

    def vectors(self, ids: Tensor, tastes: Tensor, image: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        """Post vectors (n, taste + 1) and taste vectors (n, taste).

        Args:
            ids: floating (n, taste + 1), rows of `post_table`.
            tastes: floating (n, taste), rows of `taste_table`.
            image: floating (n, image width).
            caption: floating (n, caption width).
        """
        return ids + self.post_features(image, caption), tastes + self.taste_features(image, caption)


def new_sequence_model(shape: NetworkShape, config: SequenceConfig) -> SequenceModel:
    """An untrained model, initialized from the config's seed; its users are not used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SequenceModel(replace(shape, users=0), config)
