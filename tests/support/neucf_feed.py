"""A NeuCF version for the small feed: TorchScript, as the trainer exports it, with random weights."""

from dataclasses import replace

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import save_network
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.pipeline.export import FoldedNeuCF, dimensions_of
from tests.support.artifacts import POSTS, USERS, tiny_artifact
from tests.support.networks import randomised


def neucf_artifact(
    version: str, hidden: tuple[int, ...] = (32, 16, 8), image: int = 3, caption: int = 2
) -> Artifact:
    """A version that knows the small feed's users and its first posts."""
    shape = NetworkShape(
        users=len(USERS) + 1,
        posts=len(POSTS) + 1,
        factors=8,
        mlp_embedding=16,
        hidden=hidden,
        feature_width=8,
        image=image,
        caption=caption,
    )
    network = FoldedNeuCF(randomised(NeuCF(shape), seed=1)).eval()
    artifact, _ = tiny_artifact(version, image=image, caption=caption)
    golden = artifact.golden
    with torch.inference_mode():
        table = network.encode_posts(
            *(torch.from_numpy(array) for array in (golden.post_rows, golden.image, golden.caption))
        )
        logits = network.score(
            torch.from_numpy(golden.user_rows),
            torch.from_numpy(golden.segments),
            table,
            torch.from_numpy(golden.post_index),
        )
    return replace(
        artifact,
        model=save_network(network),
        manifest=artifact.manifest.model_copy(update={"dimensions": dimensions_of(shape)}),
        golden=replace(golden, probabilities=np.asarray(torch.sigmoid(logits))),
    )
