"""Measure how faithful Grad-CAM is: how a class's probability changes as the map's pixels are deleted or inserted.

python benchmarks/faithfulness.py --weights squeezenet1_1_imagenet.pth --images FOLDER
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import litlens
from litlens.constants import NORMALIZATIONS
from litlens.data.decode import read_image
from litlens.explain.cam import cam
from litlens.explain.preserve_state import at_home, plain, preserve_state


class Faithfulness(NamedTuple):
    """Probability of the class, float32 (B, steps + 1), as pixels go or come, the most important first.

    `deletion` begins with the image and ends with nothing, `insertion` the other way round, from a blurred
    image.
    """

    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under `deletion`, (B,) in [0, 1]: the lower, the better the map."""
        return torch.trapezoid(self.deletion, dx=1 / (self.deletion.shape[1] - 1))

    @property
    def insertion_area(self) -> Tensor:
        """Area under `insertion`, (B,) in [0, 1]: the higher, the better the map."""
        return torch.trapezoid(self.insertion, dx=1 / (self.insertion.shape[1] - 1))


def faithfulness(network: nn.Module, images: Tensor, maps: Tensor, target: Tensor, steps: int = 50) -> Faithfulness:
    """Deletion and insertion curves of maps (B, H, W) for the classes `target` (B,) on images (B, C, H, W).

    Deleted pixels become 0, the mean of normalized images; inserted ones replace those of the image blurred
    by a Gaussian of 5 pixels, cut at 11×11. Compare with the areas of `random_maps`. The network stays as it
    was.

    Source: Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models", BMVC 2018,
    and its `evaluation.py`.
    """
    network = plain(network)
    with preserve_state(network), torch.no_grad():
        own = at_home(images, network)
        classes = target.to(own.device)[:, None]
        ranks = _ranks(maps.to(own.device))

        def curve(start: Tensor, end: Tensor) -> Tensor:
            points = []
            for step in range(steps + 1):
                changed = (ranks < round(step * ranks[0].numel() / steps))[:, None]
                logits = network(torch.where(changed, end, start)).float()
                points.append(logits.softmax(1).gather(1, classes)[:, 0])
            return torch.stack(points, 1).to(images.device)

        return Faithfulness(deletion=curve(own, torch.zeros_like(own)), insertion=curve(_blurred(own), own))


def random_maps(shape: tuple[int, int, int], *, seed: int, cells: int = 7) -> Tensor:
    """Random maps (B, H, W) in [0, 1] as a baseline: noise of cells × cells, enlarged like a last layer's map.

    Noise per pixel would be an unfair baseline, as it takes pixels everywhere at once, which destroys any
    image.
    """
    noise = torch.rand((shape[0], 1, cells, cells), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, size=shape[1:], mode="bilinear", align_corners=False)[:, 0]


def _ranks(maps: Tensor) -> Tensor:
    """How many pixels are more important than each (B, H, W); equals go in reading order."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def _blurred(images: Tensor) -> Tensor:
    offsets = torch.arange(-5, 6, device=images.device, dtype=images.dtype)
    line = torch.exp(-(offsets**2) / (2 * 5**2))
    line = line / line.sum()
    channels = images.shape[1]
    for shape, padding in (((channels, 1, 11, 1), (5, 0)), ((channels, 1, 1, 11), (0, 5))):
        kernel = line.view(1, 1, *shape[2:]).expand(shape)
        images = nn.functional.conv2d(images, kernel, padding=padding, groups=channels)
    return images


def main() -> None:
    """Print the areas of Grad-CAM's maps and of random maps, as means over the images of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights of SqueezeNet 1.1 on ImageNet: a file, or DEFAULT")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, searched at every depth")
    parser.add_argument("--count", type=int, default=32, help="how many of them")
    options = parser.parse_args()
    network, _ = litlens.imagenet_network("squeezenet1_1", options.weights)
    mean, std = NORMALIZATIONS["imagenet"]
    preprocessing = litlens.Preprocessing(litlens.Resize((224, 224)), litlens.Normalize(mean, std))
    files = sorted(path for path in options.images.rglob("*") if path.is_file())[: options.count]
    images = preprocessing.normalize(np.stack([preprocessing.resize(read_image(file, channels=3)) for file in files]))
    target = network(images).argmax(dim=1).detach()
    maps = {"Grad-CAM": cam(network, images).maps, "random": random_maps((len(images), 224, 224), seed=0)}
    for name, of_images in maps.items():
        curves = faithfulness(network, images, of_images, target)
        print(f"{name:9} deletion {curves.deletion_area.mean():.3f}, insertion {curves.insertion_area.mean():.3f}")


if __name__ == "__main__":
    main()
