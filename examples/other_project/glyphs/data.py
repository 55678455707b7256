"""Images that this project draws itself: a filled shape of random color, place and size on a random background."""

import random

import torch
from lightning import LightningDataModule
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import normalize, to_tensor

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Shapes(Dataset[tuple[Tensor, Tensor]]):
    """Circles, squares and triangles in turn; an index gives the same image every time."""

    def __init__(self, first: int, number: int, side: int) -> None:
        self.first, self.number, self.side = first, number, side

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        label = index % 3
        pixels = to_tensor(draw_shape(label, self.side, random.Random(self.first + index)))
        return normalize(pixels, IMAGENET_MEAN, IMAGENET_STD), torch.tensor(label)


class ShapesDataModule(LightningDataModule):
    """Normalized color images in three classes.

    Args:
        images: Training images; validation and test have a quarter of that each.
        batch_size: Images in a batch.
        side: Height and width of an image.
    """

    class_names = ("circle", "square", "triangle")
    num_classes, in_channels = 3, 3

    def __init__(self, images: int = 600, batch_size: int = 32, side: int = 64) -> None:
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.image_size = (side, side)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Load the training images in a random order."""
        return DataLoader(Shapes(0, self.images, self.image_size[0]), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Load the validation images."""
        return DataLoader(Shapes(10**6, self.images // 4, self.image_size[0]), self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Load the test images."""
        return DataLoader(Shapes(2 * 10**6, self.images // 4, self.image_size[0]), self.batch_size)


def draw_shape(label: int, side: int, rng: random.Random) -> Image.Image:
    """Draw an image of a class."""
    dark, light = (tuple(rng.randint(low, low + 100) for _ in range(3)) for low in (0, 150))
    image = Image.new("RGB", (side, side), dark)
    radius = rng.uniform(0.2, 0.4) * side
    x, y = (rng.uniform(radius, side - radius) for _ in range(2))
    sides = {1: 4, 2: 3}.get(label)
    if sides is None:
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
    else:
        ImageDraw.Draw(image).regular_polygon((x, y, radius), sides, rotation=rng.randint(0, 89), fill=light)
    return image
