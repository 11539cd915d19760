"""NeuCF as it is trained: NeuMF (He et al. 2017) whose posts also have an image and a caption."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

ID_STD = 0.01


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What the data and the recipe make a network look like.

    Attributes:
        users: Rows of the user tables. The unknown row 0 is never trained: nobody scores an unknown user.
        posts: Rows of the post tables, the unknown row 0 included.
        factors: Width of the GMF branch.
        mlp_embedding: Width of an id's embedding in the MLP branch.
        hidden: Widths of the MLP's layers.
        feature_width: Width to which each branch projects images and captions.
        image: Width of image embeddings, 0 where the network takes none.
        caption: Width of caption embeddings, 0 where the network takes none.
        image_scale: Factor that makes image embeddings about unit length.
        caption_scale: Factor that makes caption embeddings about unit length.
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


class PostFeatures(nn.Module):
    """g(image, caption): what a post's embeddings add to its id embedding in one branch.

    Both embeddings are projected without a bias and rectified, so an absent one (all zeros) adds exactly 0;
    the last layer starts at zero, so an untrained network is exactly NeuMF.
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
        from_image = torch.relu(image @ (self.image * self.image_scale))
        from_caption = torch.relu(caption @ (self.caption * self.caption_scale))
        output: Tensor = self.output(torch.cat((from_image, from_caption), dim=1))
        return output


class NeuCF(nn.Module):
    """Logits of user-post pairs.

    `forward` is the definition. Training and serving use that the first hidden layer is linear in
    [user; post]: the vectors of users and of posts can be computed once, and `meet` in many pairs.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.user_gmf = nn.Embedding(shape.users, shape.factors)
        self.post_gmf = nn.Embedding(shape.posts, shape.factors)
        self.user_mlp = nn.Embedding(shape.users, shape.mlp_embedding)
        self.post_mlp = nn.Embedding(shape.posts, shape.mlp_embedding)
        for table in self.id_tables():
            nn.init.normal_(table.weight, std=ID_STD)
        self.gmf_features = PostFeatures(shape, shape.factors)
        self.mlp_features = PostFeatures(shape, shape.mlp_embedding)
        widths = (2 * shape.mlp_embedding, *shape.hidden)
        # The first layer, of which users and posts each have their half of the inputs, and the layers above.
        self.first = nn.Linear(widths[0], widths[1])
        self.tower = nn.Sequential()
        for entering, leaving in pairwise(widths[1:]):
            self.tower.extend((nn.Linear(entering, leaving), nn.ReLU()))
        self.output = nn.Linear(shape.factors + shape.hidden[-1], 1)

    def id_tables(self) -> list[nn.Embedding]:
        """The embeddings of ids, both branches'."""
        return [self.user_gmf, self.post_gmf, self.user_mlp, self.post_mlp]

    def vector_parameters(self) -> list[Tensor]:
        """What tells users and posts apart: the embeddings of ids, and g."""
        tables = [table.weight for table in self.id_tables()]
        return [*tables, *self.gmf_features.parameters(), *self.mlp_features.parameters()]

    def forward(self, user_rows: Tensor, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """Logits (m) of rows int64 (m), image (m, image width) and caption (m, caption width)."""
        gmf = self.user_gmf(user_rows) * (self.post_gmf(post_rows) + self.gmf_features(image, caption))
        post_mlp = self.post_mlp(post_rows) + self.mlp_features(image, caption)
        hidden = self.tower(torch.relu(self.first(torch.cat((self.user_mlp(user_rows), post_mlp), dim=1))))
        logits: Tensor = self.output(torch.cat((gmf, hidden), dim=1)).squeeze(1)
        return logits

    def user_vectors(self, user_rows: Tensor) -> Tensor:
        """Vectors (b, factors + first hidden width) of rows int64 (b), first layer's bias included."""
        user_weight = self.first.weight[:, : self.shape.mlp_embedding]
        hidden = nn.functional.linear(self.user_mlp(user_rows), user_weight, self.first.bias)
        return torch.cat((self.user_gmf(user_rows), hidden), dim=1)

    def post_id_vectors(self, post_rows: Tensor) -> Tensor:
        """What ids int64 (n) contribute to post vectors (n, factors + first hidden width)."""
        return self._post_vectors(self.post_gmf(post_rows), self.post_mlp(post_rows))

    def post_feature_vectors(self, image: Tensor, caption: Tensor) -> Tensor:
        """What embeddings contribute to post vectors (n, factors + first hidden width)."""
        return self._post_vectors(self.gmf_features(image, caption), self.mlp_features(image, caption))

    def _post_vectors(self, gmf: Tensor, mlp: Tensor) -> Tensor:
        post_weight = self.first.weight[:, self.shape.mlp_embedding :]
        return torch.cat((gmf, nn.functional.linear(mlp, post_weight)), dim=1)

    def meet(self, users: Tensor, posts: Tensor) -> Tensor:
        """Logits (...) of user vectors and post vectors (..., factors + first hidden width)."""
        widths = [self.shape.factors, self.shape.hidden[0]]
        # Split, not sliced: the gradient of a slice is a whole array of zeros, that of a split one copy.
        users_gmf, users_hidden = torch.split(users, widths, dim=-1)
        posts_gmf, posts_hidden = torch.split(posts, widths, dim=-1)
        hidden = self.tower(torch.relu(users_hidden + posts_hidden))
        gmf = (users_gmf * self.gmf_weight * posts_gmf).sum(dim=-1)
        logits: Tensor = gmf + hidden @ self.mlp_weight + self.output.bias
        return logits

    @property
    def gmf_weight(self) -> Tensor:
        """The output layer's weights (factors) of the GMF branch."""
        return self.output.weight[0, : self.shape.factors]

    @property
    def mlp_weight(self) -> Tensor:
        """The output layer's weights (last hidden width) of the MLP branch."""
        return self.output.weight[0, self.shape.factors :]


def _projection(width: int, feature_width: int) -> nn.Parameter:
    """A projection (width, feature_width) for unit-length inputs, of no rows where there are none."""
    return nn.Parameter(torch.randn(width, feature_width))
