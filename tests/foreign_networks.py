"""Networks and a classifier as somebody who has never read litlens would write them."""

from typing import Any

import torch
from torch import Tensor, nn

from litlens.models.classifier import ImageClassifier


class Linked(nn.Module):
    """Takes what follows from the data, and an option of its own."""

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int], width: int = 3) -> None:
        super().__init__()
        self.features = nn.Conv2d(in_channels, width, 3, padding=1)
        self.head = nn.Linear(width * image_size[0] * image_size[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu().flatten(1))


class AllDefaults(Linked):
    """Is named without any option."""

    def __init__(self, num_classes: int = 5, in_channels: int = 1, image_size: tuple[int, int] = (4, 4)) -> None:
        super().__init__(num_classes, in_channels, image_size)


class Unlinked(Linked):
    """Takes nothing that follows from the data."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(3, 3, (8, 8), width=width)


class WithModule(Linked):
    """Takes a module, and hands on the rest."""

    def __init__(self, act: nn.Module, norm: type[nn.Module] = nn.BatchNorm2d, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.act, self.norm = act, norm(self.features.out_channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.features(images))).flatten(1))


class WithItem(Linked):
    """Needs the values of its weights while it is constructed, which torch's meta device does not have."""

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.scale = self.head.weight.std().item()


class Broken(nn.Module):
    """Has a bug."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.width, self.height = (num_classes,) * 3


class Random(Linked):
    """Is another one every time that it is constructed."""

    count = 0

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        Random.count += 1
        super().__init__(num_classes, in_channels, image_size, width=Random.count)


class WithPath(Linked):
    """Has options whose names are also those of files and weights."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        path: str | None = None,
        pretrained: bool | str | None = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.path, self.pretrained, self.drop_path = path, pretrained, drop_path


class Tempered(ImageClassifier):
    """Has an option of its own."""

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / torch.tensor(self.temperature)
