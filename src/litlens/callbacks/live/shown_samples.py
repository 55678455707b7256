"""The validation samples that are shown: chosen by their place in the split, the same ones every time."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from litlens.callbacks.live.drawing import due
from litlens.explain.map_layers import NoMapError
from litlens.explain.preserve_state import at_home, plain, preserve_state

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Samples:
    """Images float32 (B, C, H, W) as the network takes them, images uint8 (B, H, W, 1 or 3) as people do.

    With their labels int64 (B,) and names.
    """

    images: Tensor
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: Sequence[str]


class ShownSamples(Callback, ABC):
    """Shows something about the same samples of validation, every time that a drawing is due.

    They are spread evenly over the split where the data module has `samples`, `image` and `preprocessing`,
    and are otherwise the first ones of the first batch. Shown after the first batch, on rank zero alone: then
    the network has the weights that are validated, whatever another callback (a running average) does at the
    start and end of the pass. A network without maps (an MLP) is told of in one line, once.

    Args:
        samples: How many.
        every_n_epochs: How often, and at the end of a run that reaches `max_epochs`; by default about ten times.
    """

    def __init__(self, samples: int, every_n_epochs: int | None = None) -> None:
        self.samples, self.every_n_epochs = samples, every_n_epochs
        self._finished = self._told = False
        self._chosen: Samples | None = None

    @abstractmethod
    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Show something about the samples. May raise NoMapError; `_finished` ends it for the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Other data may come."""
        self._chosen = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Choose, once, and show."""
        if batch_idx or dataloader_idx or self._finished or not trainer.is_global_zero:
            return
        if not due(trainer, self.every_n_epochs):
            return
        if self._chosen is None:
            self._chosen = _spread(trainer, self.samples) or samples_of(batch, self.samples)
        if self._chosen is None:
            return
        try:
            self.show(trainer, pl_module, network_of(pl_module), self._chosen)
        except NoMapError as error:
            if not self._told:
                _log.warning("%s: %s", type(self).__name__, error)
            self._told = True


def network_of(module: LightningModule) -> nn.Module:
    """What takes images: the module's `network` where it has one, otherwise the module."""
    network = getattr(module, "network", module)
    return plain(network if isinstance(network, nn.Module) else module)


def probabilities_of(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Softmax (B, K) of what the whole network makes of images (B, C, H, W), in evaluation mode; it stays as it was."""
    with preserve_state(network), torch.no_grad():
        probabilities: NDArray[np.float32] = network(at_home(images, network)).float().softmax(1).cpu().numpy()
    return probabilities


def has_images(trainer: Trainer) -> bool:
    """Whether images can be fetched from the data module by their place in the split."""
    data = getattr(trainer, "datamodule", None)
    return all(hasattr(data, name) for name in ("samples", "image", "preprocessing"))


def samples_at(trainer: Trainer, places: Sequence[int] | NDArray[np.int64]) -> Samples:
    """Samples of validation by their places, where the data module `has_images`.

    From there and not from a batch, which may hold features that were kept in place of images.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    split = data.samples("val")
    pixels = np.stack([data.image("val", int(place)) for place in places])
    labels = np.asarray(split.labels)[np.asarray(places, dtype=np.int64)]
    return Samples(data.preprocessing.normalize(pixels), pixels, labels, [split.names[place] for place in places])


def samples_of(batch: object, number: int) -> Samples | None:
    """The first samples of a batch (images, labels), or None where it is none."""
    if not (isinstance(batch, Sequence) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2])):
        return None
    images, labels = batch[0][:number].detach().clone().float().cpu(), batch[1][:number]
    if images.ndim != 4 or labels.ndim != 1:
        return None
    names = [f"val/{place:05d}" for place in range(len(images))]
    return Samples(images, pixels_of(images), labels.cpu().numpy(), names)


def pixels_of(images: Tensor) -> NDArray[np.uint8]:
    """Images (B, C, H, W) of an unknown normalization as pixels, each stretched to its own range."""
    values = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
    lowest, highest = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    stretched = (values - lowest) / (highest - lowest).clamp(min=1e-12) * 255
    pixels: NDArray[np.uint8] = stretched.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def predictions_in(outputs: object) -> tuple[Tensor, Tensor] | None:
    """The logits float32 (B, K) and labels (B,) that a step returned, or None where it returned others."""
    if not isinstance(outputs, Mapping) or not {"logits", "labels"} <= outputs.keys():
        return None
    return outputs["logits"].detach().float(), outputs["labels"].detach()


def _spread(trainer: Trainer, number: int) -> Samples | None:
    if not has_images(trainer):
        return None
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    size = len(data.samples("val"))
    return samples_at(trainer, np.linspace(0, size - 1, min(number, size)).astype(np.int64))
