"""Exports a trained network as a version: the folded network, golden rows and the manifest."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from animora_artifact import Artifact, Golden, Manifest
from animora_artifact.manifest import DataWindow, Dimensions, PairedDifference
from animora_artifact.network import save_network
from animora_training.data.arrays import explain_temporary_write_errors
from animora_training.data.clock import last_believed
from animora_training.data.dataset import Interactions
from animora_training.modeling.network import LONGEST_EMBEDDING, NetworkShape, NeuCF, shortened
from animora_training.modeling.training_set import TrainingSet

GOLDEN_USERS = 8
GOLDEN_POSTS = 40
ROWS_AT_ONCE = 1 << 14
INPUT_MULTIPLE = 4
# PostgreSQL stores the years 4713 BC to AD 294276; Python and manifests the years 1 to 9999.
EARLIEST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


class Product(nn.Module):
    """A linear layer whose rows have the same bits in any place of a batch, on a CPU.

    The inputs are filled up with zeros to a multiple of INPUT_MULTIPLE: with others, the libraries behind
    PyTorch sum a row in an order that depends on its place.

    Args:
        weight: floating (outputs, inputs).
        bias: floating (outputs), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.missing = -weight.shape[1] % INPUT_MULTIPLE
        self.weight = _constant(functional.pad(weight, (0, self.missing)))
        self.bias = None if bias is None else _constant(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (n, outputs) of inputs (n, inputs)."""
        if self.missing:
            inputs = functional.pad(inputs, (0, self.missing))
        return functional.linear(inputs, self.weight, self.bias)


class FoldedNeuCF(nn.Module):
    """NeuCF for inference: all products that depend on one user or one post alone are computed in advance.

    A user vector is [GMF embedding | 1 | user part of the first hidden layer, bias included | both biases]; a
    post vector is [GMF vector | bias | post part of the first hidden layer]. The class implements
    `animora_artifact.network.Network`. All tensors are parameters, so that `to(dtype)` casts all of them.
    """

    def __init__(self, network: NeuCF) -> None:
        super().__init__()
        shape = network.shape
        self.gmf = shape.factors + 1
        self.longest_image = LONGEST_EMBEDDING / shape.image_scale
        self.longest_caption = LONGEST_EMBEDDING / shape.caption_scale
        with torch.no_grad():
            self.user_table = _table(network.user_vectors, network.user_table)
            self.post_table = _table(network.post_vectors, network.post_table)
            # Both branches in one matrix product: from the width of an embedding to 2 · feature width, then
            # to the width of a post vector.
            features = (network.gmf_features, network.mlp_features)
            post_weight = network.first.weight[:, shape.mlp_embedding :]
            outputs = (features[0].output.weight, post_weight @ features[1].output.weight)
            (gmf_image, gmf_caption), (mlp_image, mlp_caption) = (
                torch.split(output.T, shape.feature_width) for output in outputs
            )
            self.image_projection = Product(
                torch.cat([part.image * part.image_scale for part in features], 1).T
            )
            self.image_output = Product(_diagonal(gmf_image, mlp_image).T)
            self.caption_projection = Product(
                torch.cat([part.caption * part.caption_scale for part in features], dim=1).T
            )
            self.caption_output = Product(_diagonal(gmf_caption, mlp_caption).T)
            self.mlp_weight = _constant(network.mlp_weight)
            self.above = _constant(_pack_layers(network.tower, network.mlp_weight))
            self.tower = nn.Sequential(
                *(
                    Product(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else nn.ReLU()
                    for layer in network.tower
                )
            )

    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """See Network."""
        image = shortened(image, self.longest_image)
        caption = shortened(caption, self.longest_caption)
        from_image: Tensor = self.image_output(torch.relu(self.image_projection(image)))
        from_caption: Tensor = self.caption_output(torch.relu(self.caption_projection(caption)))
        return self.post_table.index_select(0, post_rows) + from_image + from_caption

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network."""
        gmf, mlp, bias = self._terms(user_rows, segments, post_table, post_index)
        return gmf + mlp + bias

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network."""
        return torch.stack(self._terms(user_rows, segments, post_table, post_index), dim=1)

    @torch.jit.export
    def compiled_tensors(self) -> list[Tensor]:
        """The tensors that score.c reads; see animora_artifact.compiled."""
        return [self.user_table, self.above]

    def _terms(
        self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Contributions of the GMF branch, the MLP branch and the user's bias to the logits, (m) each."""
        users = self.user_table.index_select(0, user_rows).index_select(0, segments)
        posts = post_table.index_select(0, post_index)
        gmf = (users[:, : self.gmf] * posts[:, : self.gmf]).sum(dim=1)
        hidden = torch.relu(users[:, self.gmf : -1] + posts[:, self.gmf :])
        return gmf, self.tower(hidden) @ self.mlp_weight, users[:, -1]


@dataclass(frozen=True, slots=True)
class VersionOrigin:
    """Provenance of a version, for its manifest.

    Attributes:
        created_at: Creation time.
        hyperparameters: Hyper-parameters of the fit.
        metrics: Metrics on the hold-out, by name.
        differences: Paired comparisons on the held-out pairs, by the name of the other model.
    """

    created_at: datetime
    hyperparameters: dict[str, str | int | float | bool | list[int]]
    metrics: dict[str, float]
    differences: dict[str, PairedDifference] = field(default_factory=dict)


def export(network: NeuCF, data: TrainingSet, pairs: Interactions, origin: VersionOrigin) -> Artifact:
    """Makes a version of a trained network.

    Needs the memory of two more user tables: the folded table, and the bytes of the version.

    Args:
        network: The trained network.
        data: Training data, for the vocabulary and the golden rows.
        pairs: Interactions that the training data were made from, for the data window.
        origin: Provenance of the version.

    Raises:
        CannotWrite: The folder of temporary files has no room for the network.
    """
    with explain_temporary_write_errors():
        model = save_network(FoldedNeuCF(network).eval())
    created_at = origin.created_at.astimezone(UTC)
    digest = hashlib.sha256(model)
    digest.update(data.vocabulary.to_npz())
    manifest = Manifest(
        version=f"{created_at:%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:6]}",
        created_at=created_at,
        dimensions=dimensions_of(network.shape),
        data_window=data_window(pairs),
        hyperparameters=origin.hyperparameters,
        metrics=origin.metrics,
        differences=origin.differences,
        files={},
    )
    return Artifact(manifest, model, data.vocabulary, golden_rows(network, data))


def golden_rows(network: NeuCF, data: TrainingSet) -> Golden:
    """Scores users and posts spread over the tables with the trained network, for later replays.

    Every fourth post is scored as an unknown id and every fifth without embeddings, so all four cases occur.
    """
    user_rows = _spread(len(data.vocabulary.user_ids), GOLDEN_USERS)
    table_rows = _spread(len(data.vocabulary.post_ids), GOLDEN_POSTS)
    image, caption = data.image[table_rows].float(), data.caption[table_rows].float()
    number = torch.arange(len(table_rows))
    post_rows = table_rows.masked_fill(number % 4 == 3, 0)
    image[number % 5 == 4] = 0.0
    caption[number % 5 == 4] = 0.0
    segments = torch.arange(len(user_rows)).repeat_interleave(len(post_rows))
    post_index = number.repeat(len(user_rows))
    with torch.inference_mode():
        logits = network(user_rows[segments], post_rows[post_index], image[post_index], caption[post_index])
        probabilities = torch.sigmoid(logits)
    return Golden(
        user_rows=user_rows.numpy(),
        segments=segments.numpy(),
        post_rows=post_rows.numpy(),
        image=image.numpy(),
        caption=caption.numpy(),
        post_index=post_index.numpy(),
        probabilities=probabilities.numpy(),
    )


def dimensions_of(shape: NetworkShape) -> Dimensions:
    """Dimensions of a network, as the manifest stores them."""
    return Dimensions(
        users=shape.users,
        posts=shape.posts,
        factors=shape.factors,
        mlp_embedding=shape.mlp_embedding,
        hidden=shape.hidden,
        image=shape.image,
        caption=shape.caption,
        post_vector=shape.post_vector,
    )


def _spread(known: int, count: int) -> Tensor:
    """Up to `count` evenly spread rows from 1 to `known`, int64."""
    return torch.from_numpy(np.unique(np.linspace(1, known, count).astype(np.int64)))


def data_window(pairs: Interactions) -> DataWindow:
    """Time span of the pairs, from the first to the last plausible time (see `data.clock`).

    Times outside of the years 1 to 9999 are clipped.
    """
    first, last = np.clip((pairs.times.min(), last_believed(pairs.latest)), EARLIEST, LATEST).tolist()
    return DataWindow(
        start=datetime.fromtimestamp(first, UTC),
        end=datetime.fromtimestamp(last, UTC),
        interactions=len(pairs),
    )


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    """Block-diagonal matrix of two blocks."""
    matrix: Tensor = torch.block_diag(first, second)  # type: ignore[no-untyped-call]  # torch does not type it
    return matrix


def _pack_layers(tower: nn.Sequential, mlp_weight: Tensor) -> Tensor:
    """Packs weight (inputs, outputs) and bias of each layer and the final weights, as score.c reads them.

    Sixteen zeros follow: score.c loads vectors of sixteen floats, and the last load may pass the last weight.
    """
    layers = [layer for layer in tower if isinstance(layer, nn.Linear)]
    parts = [part for layer in layers for part in (layer.weight.T.flatten(), layer.bias)]
    return torch.cat((*parts, mlp_weight, torch.zeros(16)))


def _table(vectors: Callable[[Tensor], Tensor], rows: Tensor) -> nn.Parameter:
    """Vectors (n, width) of all rows of a table, computed in chunks to bound the memory in use."""
    table = rows.new_empty(len(rows), vectors(rows[:0]).shape[1])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        table[some] = vectors(rows[some])
    return nn.Parameter(table, requires_grad=False)


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)
