"""NeuCF: NeuMF (He et al. 2017) with image and caption embeddings and a bias for posts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

# Embeddings are shortened to this multiple of the median length: a single outlier would otherwise dominate
# the training of the projections.
LONGEST_EMBEDDING = 3.0
ID_STD = 0.01
POST_MLP_STD = 0.1


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Shape of a network, from data and recipe.

    Attributes:
        users: Rows of the user table, the unknown row 0 included; it is never trained.
        posts: Rows of the post table, the unknown row 0 included.
        factors: Width of the GMF branch.
        mlp_embedding: Width of an id's embedding in the MLP branch.
        hidden: Widths of the MLP's layers.
        feature_width: Width to which each branch projects images and captions.
        image: Width of image embeddings, 0 where the network takes none.
        caption: Width of caption embeddings, 0 where the network takes none.
        image_scale: Factor that makes the median image embedding one of unit length.
        caption_scale: Factor that makes the median caption embedding one of unit length.
    """

    users: int
    posts: int
    factors: int
    mlp_embedding: int
    hidden: tuple[int, ...]
    feature_width: int
    image: int
    caption: int
    image_scale: float = 1.0
    caption_scale: float = 1.0

    @property
    def embedding(self) -> int:
        """Width of a row of the user and post tables: the GMF branch's, a bias, the MLP branch's."""
        return self.factors + 1 + self.mlp_embedding

    @property
    def post_vector(self) -> int:
        """Width of a post vector: the GMF branch's, the bias, the first hidden layer's."""
        return self.factors + 1 + self.hidden[0]


def shortened(embeddings: Tensor, longest: float) -> Tensor:
    """Embeddings floating (n, d), shortened to at most the length `longest`."""
    # In float32: the square of a float16 value may overflow float16.
    lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True, dtype=torch.float32)
    factors: Tensor = longest / lengths.clamp(min=longest)
    return embeddings * factors.to(embeddings.dtype)


class PostFeatures(nn.Module):
    """g(image, caption): what a post's embeddings add to its id embedding in one branch.

    Both embeddings are shortened to LONGEST_EMBEDDING times the median length if they are longer, projected
    without a bias and rectified, so an absent one (all zeros) adds exactly 0. The last layer starts at zero,
    so an untrained network is exactly NeuMF.
    """

    def __init__(self, shape: NetworkShape, width: int) -> None:
        super().__init__()
        self.image = _projection(shape.image, shape.feature_width)
        self.caption = _projection(shape.caption, shape.feature_width)
        # Adam's step size does not depend on the input's scale, so inputs are scaled to unit length.
        self.image_scale = shape.image_scale
        self.caption_scale = shape.caption_scale
        self.output = nn.Linear(2 * shape.feature_width, width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """Vectors (n, width) of image (n, image width) and caption (n, caption width)."""
        image = shortened(image, LONGEST_EMBEDDING / self.image_scale)
        caption = shortened(caption, LONGEST_EMBEDDING / self.caption_scale)
        from_image = torch.relu(image @ (self.image * self.image_scale))
        from_caption = torch.relu(caption @ (self.caption * self.caption_scale))
        output: Tensor = self.output(torch.cat((from_image, from_caption), dim=1))
        return output


class NeuCF(nn.Module):
    """Logits of user-post pairs.

    `forward` is the definition. Training and serving use that the first hidden layer is linear in [user;
    post]: user and post vectors are computed once and combined by `score_pairs` or `score_all_pairs`.

    The tables are buffers, not parameters: a step updates only the rows that it touches. A row is [GMF branch
    (factors) | bias (1) | MLP branch (mlp_embedding)]. The GMF branch has no weights in the last layer,
    unlike in the paper: the embeddings can take any scale, and extra weights would undo their L2.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.user_table: Tensor
        self.post_table: Tensor
        self.register_buffer("user_table", torch.randn(shape.users, shape.embedding) * ID_STD)
        self.register_buffer("post_table", torch.randn(shape.posts, shape.embedding) * ID_STD)
        self.post_table[:, shape.factors + 1 :] *= POST_MLP_STD / ID_STD
        self.user_table[:, shape.factors] = 0.0
        self.post_table[:, shape.factors] = 0.0
        self.gmf_features = PostFeatures(shape, shape.factors + 1)
        self.mlp_features = PostFeatures(shape, shape.mlp_embedding)
        # The inputs of the first layer are [user | post].
        self.first = nn.Linear(2 * shape.mlp_embedding, shape.hidden[0])
        self.tower = nn.Sequential()
        for entering, leaving in pairwise(shape.hidden):
            self.tower.extend((nn.Linear(entering, leaving), nn.ReLU()))
        self.mlp_weight = nn.Parameter(torch.randn(shape.hidden[-1]) * ID_STD)
        self.bias = nn.Parameter(torch.zeros(1))

    @classmethod
    def holding(cls, shape: NetworkShape, values: Mapping[str, Tensor]) -> "NeuCF":
        """A network with the given parameters and tables, by name, without copying them.

        The user table may have fewer rows than `shape.users`, as in a process group.

        Raises:
            RuntimeError: A tensor has another shape.
        """
        with torch.device("meta"):  # allocates and draws nothing
            network = cls(replace(shape, users=len(values["user_table"])))
        network.shape = shape
        network.load_state_dict(values, assign=True)
        return network

    def forward(self, user_rows: Tensor, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """Logits (m) of rows int64 (m), image (m, image width) and caption (m, caption width)."""
        factors = self.shape.factors
        user, post = self.user_table[user_rows], self.post_table[post_rows] + self.features(image, caption)
        gmf = user[:, :factors] * post[:, :factors]
        mlp = torch.cat((user[:, factors + 1 :], post[:, factors + 1 :]), dim=1)
        biases = user[:, factors] + post[:, factors] + self.bias
        logits: Tensor = gmf.sum(dim=1) + self._above(self.first(mlp)) + biases
        return logits

    def rescaled(self, slope: float, offset: float) -> "NeuCF":
        """The network with logits slope · logit + offset. Changes the user table in place and shares it."""
        factors = self.shape.factors
        values = self.state_dict()
        users = values["user_table"]
        users[:, : factors + 1] *= slope  # GMF products and user biases
        for name, rows in (("post_table", (slice(None), factors)), ("gmf_features.output.weight", factors)):
            values[name] = values[name].clone()
            values[name][rows] *= slope  # post biases
        values["mlp_weight"] = values["mlp_weight"] * slope
        values["bias"] = values["bias"] * slope + offset
        return NeuCF.holding(self.shape, values)

    def features(self, image: Tensor, caption: Tensor) -> Tensor:
        """The part of post rows (n, embedding) from image (n, image width) and caption (n, caption width)."""
        return torch.cat((self.gmf_features(image, caption), self.mlp_features(image, caption)), dim=1)

    def user_vectors(self, rows: Tensor) -> Tensor:
        """Vectors of users' rows (b, embedding).

        Returns:
            [GMF embedding (factors) | 1 | user part of the first hidden layer, bias included
            (first hidden width) | both biases (1)], floating (b, post vector + 1).
        """
        gmf, bias, mlp = self._parts(rows)
        hidden = nn.functional.linear(mlp, self.first.weight[:, : self.shape.mlp_embedding], self.first.bias)
        return torch.cat((gmf, torch.ones_like(bias), hidden, bias + self.bias), dim=1)

    def post_vectors(self, rows: Tensor) -> Tensor:
        """Vectors (n, post vector) of post rows (n, embedding); linear in the rows."""
        gmf, bias, mlp = self._parts(rows)
        hidden = nn.functional.linear(mlp, self.first.weight[:, self.shape.mlp_embedding :])
        return torch.cat((gmf, bias, hidden), dim=1)

    def score_pairs(self, users: Tensor, posts: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits (p) of user vectors (p, post vector + 1) and post vectors (p, post vector).

        `kept`, floating (p, first hidden width), multiplies the units of the first hidden layer (dropout).
        """
        user_gmf, user_hidden, bias = self._user_parts(users)
        post_gmf, post_hidden = torch.split(posts, [self.shape.factors + 1, self.shape.hidden[0]], dim=1)
        mlp = self._above(user_hidden + post_hidden, kept)
        return (user_gmf * post_gmf).sum(dim=1) + mlp + bias.squeeze(1)

    def score_all_pairs(self, users: Tensor, posts: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits (b, n) of all pairs: users' vectors (b, post vector + 1), posts' (n, post vector).

        `kept`, floating (b, first hidden width), multiplies the units of the first hidden layer (dropout).
        """
        user_gmf, user_hidden, bias = self._user_parts(users)
        post_gmf, post_hidden = torch.split(posts, [self.shape.factors + 1, self.shape.hidden[0]], dim=1)
        # addmm adds the bias in the same pass over (b, n).
        gmf = torch.addmm(bias, user_gmf, post_gmf.T)
        return gmf + self._above(user_hidden[:, None] + post_hidden, None if kept is None else kept[:, None])

    def _above(self, hidden: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logit part (...) of the MLP branch from its first layer (..., first width) before the ReLU."""
        rectified = torch.relu(hidden) if kept is None else torch.relu(hidden) * kept
        mlp: Tensor = self.tower(rectified) @ self.mlp_weight
        return mlp

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # torch.split, not slices: the gradient of a slice allocates a full array of zeros.
        gmf, bias, mlp = torch.split(rows, [self.shape.factors, 1, self.shape.mlp_embedding], dim=1)
        return gmf, bias, mlp

    def _user_parts(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gmf, hidden, bias = torch.split(users, [self.shape.factors + 1, self.shape.hidden[0], 1], dim=1)
        return gmf, hidden, bias


def _projection(width: int, feature_width: int) -> nn.Parameter:
    """A random projection (width, feature_width) for inputs of unit length."""
    return nn.Parameter(torch.randn(width, feature_width))
