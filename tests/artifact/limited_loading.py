"""A program that loads a large network in little memory, see training.data.limited."""

import sys

import torch
from torch import nn

from animora_artifact.network import load_network, save_network
from tests.support.dot_product import DotProduct
from tests.support.memory import allow


def main() -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    load_network(save_network(DotProduct()), cpu)  # libraries allocate on first use
    network = DotProduct()
    network.users = nn.Parameter(torch.zeros(8 << 20, 2), requires_grad=False)
    size, model = network.users.nbytes, save_network(network)
    del network
    allow(int(float(sys.argv[1]) * size))
    load_network(model, cpu)


if __name__ == "__main__":
    main()
