"""Explains logits: how much a post's id, image and caption each contribute. See docs/explain.md.

A post vector is the sum of three parts, so each coalition of parts has a vector, and the network returns the
values of its branches for that vector. The term of a part is its Shapley value (Shapley 1953) over the
coalitions. The GMF branch is linear in the vector: a part's term there is its product with the user's vector.
"""

import numpy as np
import torch
from torch import Tensor

from animora_artifact.network import Network
from animora_server.errors import InvalidScores
from animora_server.inference.requests import COALITIONS
from animora_server.types import DoubleArray, FloatArray


def _shapley_weights() -> DoubleArray:
    """The weight of each coalition's value in each part's Shapley value, float64 (8, parts).

    The marginal contribution of a part to a coalition of k other parts has the weight k! (2 - k)! / 3!:
    positive for the coalition with the part, negative for the one without it.
    """
    other_parts = COALITIONS.sum(axis=1, keepdims=True) - COALITIONS
    weights: DoubleArray = np.array([1 / 3, 1 / 6, 1 / 3])[other_parts.astype(np.int64)]
    return weights * (2 * COALITIONS - 1)


SHAPLEY_WEIGHTS = _shapley_weights()


def explain(network: Network, user_row: int, post_rows: Tensor, image: Tensor, caption: Tensor) -> FloatArray:
    """Splits one user's logits into terms. Call it in inference mode.

    Args:
        network: A network on the tensors' device.
        user_row: The user's row in the model.
        post_rows: int64 (m), the posts' rows in the model, 0 unknown.
        image: floating (m, image width), zeros where absent.
        caption: floating (m, caption width), zeros where absent.

    Returns:
        float32 (m, 8). Each row adds up to the logit; the terms of an absent part are exactly 0.

    Raises:
        InvalidScores: The network does not return three branch values for each vector.
    """
    parts = _parts(network, post_rows, image, caption)  # (parts, m, d)
    members = torch.from_numpy(COALITIONS).to(parts)
    table = torch.tensordot(members, parts, dims=1).flatten(0, 1)  # (8 m, d)
    at = torch.arange(len(table), device=table.device)
    output = network.explain(at.new_full((1,), user_row), torch.zeros_like(at), table, at)
    if output.shape != (len(table), 3):
        raise InvalidScores(f"the network returns terms {tuple(output.shape)} for {len(table)} vectors")
    # The branch values gmf, mlp and bias of each coalition: float64 (8, m, 3).
    branches = output.double().cpu().numpy().reshape(len(COALITIONS), -1, 3)
    shares = np.einsum("cp,cmb->bmp", SHAPLEY_WEIGHTS, branches[:, :, :2])  # float64 (2, m, parts)
    # Equal rows of one matrix product may differ in their last bits, so an absent part is set to 0 here.
    for part, features in ((1, image), (2, caption)):
        shares[:, (~features.any(dim=1)).cpu().numpy(), part] = 0
    gmf, mlp = shares
    _, mlp_user, bias = branches[0].T
    return np.column_stack((gmf, mlp_user, mlp, bias)).astype(np.float32)


def _parts(network: Network, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
    """The contributions of id, image and caption to the vectors of m posts: floating (parts, m, d)."""
    no_image, no_caption = torch.zeros_like(image), torch.zeros_like(caption)
    by_id = network.encode_posts(post_rows, no_image, no_caption)
    with_image = network.encode_posts(post_rows, image, no_caption)
    with_caption = network.encode_posts(post_rows, no_image, caption)
    return torch.stack((by_id, with_image - by_id, with_caption - by_id))
