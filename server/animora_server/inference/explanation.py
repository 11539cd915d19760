"""Explanation: what a post's id, image and caption each add to a user's logit. See docs/explain.md.

A post's vector is the sum of its parts, so any coalition of them has a vector too, and the network tells what
its branches make of that. A part's term is its Shapley value (Shapley 1953) in this game. The GMF branch is
linear in the vector: there it is the part's own product with the user.
"""

import numpy as np
import torch
from torch import Tensor

from animora_artifact.network import Network
from animora_server.errors import InvalidScores
from animora_server.inference.terms import COALITIONS
from animora_server.types import DoubleArray, FloatArray


def _shapley_weights() -> DoubleArray:
    """The weight of each coalition's value in each part's Shapley value, float64 (8, parts).

    What a part adds to a coalition of k others counts k! (2 - k)! / 3!. The value of the coalition with
    the part counts that much, and the value of the one without it that much less.
    """
    others = COALITIONS.sum(axis=1, keepdims=True) - COALITIONS
    weights: DoubleArray = np.array([1 / 3, 1 / 6, 1 / 3])[others.astype(np.int64)]
    return weights * (2 * COALITIONS - 1)


SHAPLEY_WEIGHTS = _shapley_weights()


def explain(network: Network, user_row: int, post_rows: Tensor, image: Tensor, caption: Tensor) -> FloatArray:
    """The terms of the logits of one user with posts; call it in inference mode.

    Args:
        network: On the device of the tensors.
        user_row: The user's row in the model.
        post_rows: int64 (m), the posts' rows in the model, 0 unknown.
        image: floating (m, image width), zeros where absent.
        caption: floating (m, caption width), zeros where absent.

    Returns:
        float32 (m, 8), which add up to the logits; an absent part's are exactly 0.

    Raises:
        InvalidScores: The network gives something else than three terms of each.
    """
    parts = _parts(network, post_rows, image, caption)  # (parts, m, d)
    members = torch.from_numpy(COALITIONS).to(parts)
    table = torch.tensordot(members, parts, dims=1).flatten(0, 1)  # (8 m, d)
    at = torch.arange(len(table), device=table.device)
    output = network.explain(at.new_full((1,), user_row), torch.zeros_like(at), table, at)
    if output.shape != (len(table), 3):
        raise InvalidScores(f"the network gives terms {tuple(output.shape)} for {len(table)} vectors")
    # What each coalition's branches give: gmf, mlp and bias, float64 (8, m, 3).
    branches = output.double().cpu().numpy().reshape(len(COALITIONS), -1, 3)
    shares = np.einsum("cp,cmb->bmp", SHAPLEY_WEIGHTS, branches[:, :, :2])  # float64 (2, m, parts)
    # Equal rows of one product may differ in their last bits, which would show where a part is absent.
    for part, features in ((1, image), (2, caption)):
        shares[:, (~features.any(dim=1)).cpu().numpy(), part] = 0
    gmf, mlp = shares
    _, mlp_user, bias = branches[0].T
    return np.column_stack((gmf, mlp_user, mlp, bias)).astype(np.float32)


def _parts(network: Network, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
    """What id, image and caption add to the vectors of posts: (parts, m, d)."""
    no_image, no_caption = torch.zeros_like(image), torch.zeros_like(caption)
    by_id = network.encode_posts(post_rows, no_image, no_caption)
    with_image = network.encode_posts(post_rows, image, no_caption)
    with_caption = network.encode_posts(post_rows, no_image, caption)
    return torch.stack((by_id, with_image - by_id, with_caption - by_id))
