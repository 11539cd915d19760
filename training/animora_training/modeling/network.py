"""NeuCF: NeuMF (He et al. 2017) whose posts also have an image, a caption and a bias."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

# An embedding counts as at most so many times as long as most are: a single number that is wrong by orders of
# magnitude, which may well be finite, would decide what is learnt of all others.
LONGEST_EMBEDDING = 3.0
ID_STD = 0.01
POST_MLP_STD = 0.1


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What the data and the recipe make a network look like.

    Attributes:
        users: Rows of the user table. The unknown row 0 is never trained: nobody scores an unknown user.
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
    """Embeddings floating (n, d), those that are longer than a length shortened to it."""
    # In float32: the square of a number that a half has may be beyond what a half can hold.
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
        # Adam's steps have one size, so inputs of another scale would need a learning rate of their own.
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

    `forward` is the definition. Training and serving use that the first hidden layer is linear in
    [user; post]: the vectors of users and of posts can be computed once, and `score_pairs` in many pairs.

    The tables are buffers, not parameters: a step trains the rows that it touches, whatever is not touched
    costs nothing. A row is [GMF branch (factors) | bias (1) | MLP branch (mlp_embedding)]. The weights that
    the paper gives to the GMF branch in the last layer are 1: embeddings can be as long as they need to be,
    and weights beside them would undo their L2.
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
        # The first layer, of which users and posts each have their half of the inputs, and the layers above.
        self.first = nn.Linear(2 * shape.mlp_embedding, shape.hidden[0])
        self.tower = nn.Sequential()
        for entering, leaving in pairwise(shape.hidden):
            self.tower.extend((nn.Linear(entering, leaving), nn.ReLU()))
        self.mlp_weight = nn.Parameter(torch.randn(shape.hidden[-1]) * ID_STD)
        self.bias = nn.Parameter(torch.zeros(1))

    @classmethod
    def holding(cls, shape: NetworkShape, values: Mapping[str, Tensor]) -> "NeuCF":
        """A network of given parameters and tables, by name, which are not copied.

        The table of users may have the rows of some only.

        Raises:
            RuntimeError: They are not of the shape.
        """
        with torch.device("meta"):  # neither memory nor chance for what is replaced at once
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
        """The network whose logits are slope · logit + offset; takes the user table over, and changes it."""
        factors = self.shape.factors
        values = self.state_dict()
        users = values["user_table"]
        users[:, : factors + 1] *= slope  # of the products, and of the users' biases
        for name, rows in (("post_table", (slice(None), factors)), ("gmf_features.output.weight", factors)):
            values[name] = values[name].clone()
            values[name][rows] *= slope  # the posts' biases
        values["mlp_weight"] = values["mlp_weight"] * slope
        values["bias"] = values["bias"] * slope + offset
        return NeuCF.holding(self.shape, values)

    def features(self, image: Tensor, caption: Tensor) -> Tensor:
        """What image (n, image width) and caption (n, caption width) add to rows of posts, (n, embedding)."""
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
        """Vectors (n, post vector) of posts' rows (n, embedding); linear, features go the same way."""
        gmf, bias, mlp = self._parts(rows)
        hidden = nn.functional.linear(mlp, self.first.weight[:, self.shape.mlp_embedding :])
        return torch.cat((gmf, bias, hidden), dim=1)

    def score_pairs(self, users: Tensor, posts: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits (p) of user vectors (p, post vector + 1) and post vectors (p, post vector).

        With `kept`, floating (p, first hidden width), the units of the first hidden layer count so much.
        """
        user_gmf, user_hidden, bias = self._user_parts(users)
        post_gmf, post_hidden = torch.split(posts, [self.shape.factors + 1, self.shape.hidden[0]], dim=1)
        mlp = self._above(user_hidden + post_hidden, kept)
        return (user_gmf * post_gmf).sum(dim=1) + mlp + bias.squeeze(1)

    def score_all_pairs(self, users: Tensor, posts: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits (b, n) of all pairs: users' vectors (b, post vector + 1), posts' (n, post vector).

        With `kept`, floating (b, first hidden width), the units of the first hidden layer count so much.
        """
        user_gmf, user_hidden, bias = self._user_parts(users)
        post_gmf, post_hidden = torch.split(posts, [self.shape.factors + 1, self.shape.hidden[0]], dim=1)
        # bias as the product's addend: one pass over (b, n) less.
        gmf = torch.addmm(bias, user_gmf, post_gmf.T)
        return gmf + self._above(user_hidden[:, None] + post_hidden, None if kept is None else kept[:, None])

    def _above(self, hidden: Tensor, kept: Tensor | None = None) -> Tensor:
        """What the MLP branch adds (...) from its first layer (..., first width), not rectified yet."""
        rectified = torch.relu(hidden) if kept is None else torch.relu(hidden) * kept
        mlp: Tensor = self.tower(rectified) @ self.mlp_weight
        return mlp

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Split, not sliced: the gradient of a slice is a whole array of zeros, that of a split one copy.
        gmf, bias, mlp = torch.split(rows, [self.shape.factors, 1, self.shape.mlp_embedding], dim=1)
        return gmf, bias, mlp

    def _user_parts(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gmf, hidden, bias = torch.split(users, [self.shape.factors + 1, self.shape.hidden[0], 1], dim=1)
        return gmf, hidden, bias


def _projection(width: int, feature_width: int) -> nn.Parameter:
    """A projection (width, feature_width) for unit-length inputs, of no rows where there are none."""
    return nn.Parameter(torch.randn(width, feature_width))
