"""A version with random weights for the synthetic posts."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from animora_artifact import Artifact, FolderStore, Golden, Manifest, Vocabulary
from animora_artifact.manifest import DataWindow
from animora_artifact.network import save_network
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.pipeline.export import FoldedNeuCF, dimensions_of

USERS = 2000  # ids 1 to USERS are known
KNOWN_POSTS = 10_000  # of the posts, ids 1 to KNOWN_POSTS; the others are scored by their images
DEFAULT = FitConfig()
IMAGE = 8  # narrow, so that millions of posts fit on a disk; images are encoded when loaded, not when ranked


def publish(folder: Path, config: FitConfig = DEFAULT) -> None:
    """Makes a version of a recipe's shape the active one of a store."""
    store = FolderStore(folder)
    artifact = random_version(config)
    store.publish(artifact)
    store.activate(artifact.manifest.version)


def random_version(config: FitConfig = DEFAULT, seed: int = 0, name: str = "growth") -> Artifact:
    """A version of a recipe's shape with random weights and its own golden rows."""
    torch.manual_seed(seed)
    shape = NetworkShape(
        users=USERS + 1,
        posts=KNOWN_POSTS + 1,
        factors=config.factors,
        mlp_embedding=config.mlp_embedding,
        hidden=config.hidden,
        feature_width=config.feature_width,
        image=IMAGE,
        caption=0,
    )
    network = NeuCF(shape)
    for features in (network.gmf_features, network.mlp_features):  # which are initialized to zero
        torch.nn.init.normal_(features.output.weight, std=0.1)
    folded = FoldedNeuCF(network.eval()).eval()
    manifest = Manifest(
        version=name,
        created_at=datetime.now(UTC),
        dimensions=dimensions_of(shape),
        data_window=DataWindow(start=None, end=None, interactions=0),
        files={},
    )
    vocabulary = Vocabulary(np.arange(1, USERS + 1), np.arange(1, KNOWN_POSTS + 1))
    return Artifact(manifest, save_network(folded), vocabulary, _golden(folded))


@torch.inference_mode()
def _golden(network: FoldedNeuCF) -> Golden:
    """A user and a few posts with the network's own probabilities."""
    user, segments, posts = torch.tensor([1]), torch.zeros(4, dtype=torch.int64), torch.arange(4)
    image, caption = torch.ones(4, IMAGE), torch.zeros(4, 0)
    logits = network.score(user, segments, network.encode_posts(posts, image, caption), posts)
    return Golden(
        user_rows=user.numpy(),
        segments=segments.numpy(),
        post_rows=posts.numpy(),
        image=image.numpy(),
        caption=caption.numpy(),
        post_index=posts.numpy(),
        probabilities=torch.sigmoid(logits).numpy(),
    )
