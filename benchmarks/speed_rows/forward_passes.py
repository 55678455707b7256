"""A script of one's own in place of evaluate.py: import Lightning, load an MLP of one run, and score MNIST's test.

python forward_passes.py CHECKPOINT ROOT
"""

import itertools
import sys

import lightning.pytorch  # noqa: F401  (as a script that trains with it)
import torch
from torch import nn
from torchvision.datasets import MNIST

BATCH = 128


def main(checkpoint: str, root: str) -> None:
    """Print the accuracy."""
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    widths = [784, *(value.shape[0] for value in weights.values() if value.ndim == 2)]
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(wide, narrow), nn.BatchNorm1d(narrow), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(*widths[-2:])).eval()
    # The same layers in the same order, by other names.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    test = MNIST(root, train=False)
    images = (test.data[:, None] / 255 - 0.1307) / 0.3081
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in images.split(BATCH)])
    print((logits.argmax(1) == test.targets).float().mean().item())


if __name__ == "__main__":
    main(*sys.argv[1:])
