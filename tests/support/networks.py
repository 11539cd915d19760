"""Networks for the tests: random weights everywhere, so that no term is zero by accident."""

import torch

from animora_training.modeling.network import NetworkShape, NeuCF


def random_network(
    seed: int = 0, image: int = 6, caption: int = 4, hidden: tuple[int, ...] = (7, 5)
) -> NeuCF:
    shape = NetworkShape(
        users=6,
        posts=9,
        factors=3,
        mlp_embedding=5,
        hidden=hidden,
        feature_width=4,
        image=image,
        caption=caption,
        image_scale=0.5,
        caption_scale=2.0,
    )
    return randomised(NeuCF(shape), seed)


def randomised(network: NeuCF, seed: int = 0) -> NeuCF:
    """The network with new weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def inputs(network: NeuCF, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """User rows, post rows, images and captions of pairs; some posts unknown, some without embeddings."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(1, network.shape.users, (count,), generator=generator)
    posts = torch.randint(0, network.shape.posts, (count,), generator=generator)
    image = torch.randn(count, network.shape.image, generator=generator)
    caption = torch.randn(count, network.shape.caption, generator=generator)
    image[::3] = 0.0
    caption[::4] = 0.0
    return users, posts, image, caption
