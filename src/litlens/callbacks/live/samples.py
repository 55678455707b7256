"""Figures of validation samples: a fixed set with its predictions, and the worst mistakes."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from litlens.callbacks.live.drawing import (
    names_of_classes,
    should_draw,
    show_figure,
    show_table,
    split_title,
    warn_once,
)
from litlens.callbacks.live.score_figures import PassFigure
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.sample_figures import prediction_grid_figure, wrong_samples_figure
from litlens.evaluation.scores import worst_mistakes
from litlens.explain.map_layers import NoMapError
from litlens.explain.preserve_state import at_home, plain, preserve_state

_NO_IMAGES = "nothing to show: the batches are not (images (B, C, H, W), labels (B,))"


@dataclass(frozen=True, eq=False)
class Samples:
    """Normalized images float32 (B, C, H, W), their pixels uint8 (B, H, W, 1 or 3), labels int64 (B,) and names."""

    images: Tensor
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: Sequence[str]


class ShownSamples(Callback, ABC):
    """Base of callbacks that show the same validation samples each time.

    The samples are spread evenly over the split if the data module has `samples`, `image` and `preprocessing`,
    otherwise they are the first of the first batch. Drawn after the first batch, on rank zero: then the network has
    the weights that are validated, even if another callback (a running average) swaps them at the start and end of
    the pass. A network that does not map images to logits, or has no maps (an MLP), is reported in one line, once.

    Args:
        samples: How many samples.
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
    """

    def __init__(self, samples: int, every_n_epochs: int | None = None) -> None:
        self.samples, self.every_n_epochs = samples, every_n_epochs
        self._finished = self._checked = False
        self._chosen: Samples | None = None

    @abstractmethod
    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Draw the samples. May raise NoMapError; setting `_finished` ends the drawing for the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop the samples and the network of an earlier run."""
        self._chosen, self._checked = None, False

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or dataloader_idx or self._finished or not trainer.is_global_zero:
            return
        if not should_draw(trainer, self.every_n_epochs):
            return
        if self._chosen is None:
            self._chosen = _spread(trainer, self.samples) or samples_of(batch, self.samples)
        network = network_of(pl_module)
        if self._chosen is None:
            warn_once(self, _NO_IMAGES)
        elif self._checked or self._gives_logits(network, self._chosen.images[:1]):
            self._checked = True
            try:
                self.show(trainer, pl_module, network, self._chosen)
            except NoMapError as error:
                warn_once(self, str(error))

    def _gives_logits(self, network: nn.Module, images: Tensor) -> bool:
        try:
            with preserve_state(network), torch.no_grad():
                output = network(at_home(images, network))
            reason = "" if isinstance(output, Tensor) and output.ndim == 2 else f"returned {type(output).__name__}"
        except Exception as error:  # a foreign module may need more than images
            reason = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if reason:
            wanted = "forward(images (B, C, H, W)) should give logits (B, K)"
            warn_once(self, f"nothing to show: {type(network).__name__}'s {wanted}, but it {reason}")
        return not reason


class PredictionGrid(ShownSamples):
    """Shows the samples with the predicted class, correct in green, misclassified in red: `prediction_grid/val`."""

    def __init__(self, samples: int = 12, every_n_epochs: int | None = None) -> None:
        super().__init__(samples, every_n_epochs)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        probabilities = probabilities_of(network, samples.images)
        names, title = names_of_classes(pl_module, probabilities.shape[1]), split_title(trainer, "val")
        show_figure(
            trainer,
            "prediction_grid/val",
            lambda: prediction_grid_figure(samples.pixels, samples.labels, probabilities, names, title=title),
        )


class WrongSamples(PassFigure):
    """Shows the misclassified validation samples with the highest loss: `wrong_samples/val`.

    With file name, label and the three most probable classes; in W&B, also as the table `wrong_samples/val/table`.
    `validation_step` must return `logits` and `labels`. If the data module gives no images, they are kept from the
    batches, with several devices from those of the first.

    Args:
        samples: The largest number of samples.
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
    """

    def __init__(self, samples: int = 12, every_n_epochs: int | None = None) -> None:
        super().__init__(every_n_epochs)
        self.samples = samples
        self._seen = 0
        self._worst: list[tuple[float, int, Tensor]] = []  # loss, place in the split, image

    def is_wanted(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        self._seen, self._worst = 0, []
        return split == "val" and super().is_wanted(trainer, pl_module, split)

    def keep_batch(self, trainer: Trainer, batch: object, logits: Tensor, labels: Tensor) -> None:
        """Keep the images of the worst mistakes so far, too, if the data module gives none."""
        super().keep_batch(trainer, batch, logits, labels)
        if has_images(trainer) or not trainer.is_global_zero:
            return
        given = samples_of(batch, len(labels))
        if given is None:
            warn_once(self, _NO_IMAGES)
            return
        losses = nn.functional.cross_entropy(logits, labels, reduction="none").nan_to_num(nan=torch.inf)
        for row in (logits.argmax(1) != labels).nonzero().flatten().tolist():
            # Of W devices the first has samples 0, W, 2W, ... of the split.
            self._worst.append((float(losses[row]), (self._seen + row) * trainer.world_size, given.images[row]))
        self._worst = heapq.nlargest(self.samples, self._worst, key=lambda kept: kept[0])
        self._seen += len(labels)

    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        kept = {place: image for _, place, image in self._worst}
        worst = [place for place in worst_mistakes(predictions) if has_images(trainer) or place in kept]
        worst, self._worst = worst[: self.samples], []
        if not worst or not trainer.is_global_zero:
            return
        labels, names = predictions.labels[worst], [predictions.names[place] for place in worst]
        if has_images(trainer):
            samples = samples_at(trainer, worst)
        else:
            images = torch.stack([kept[place] for place in worst])
            samples = Samples(images, pixels_of(images), labels, names)
        if not np.array_equal(samples.labels, labels):
            warn_once(self, "nothing to show: the labels are not in the data module's order")
            return
        title = f"{split_title(trainer, split)}: misclassified, highest loss first"
        show_figure(
            trainer,
            "wrong_samples/val",
            lambda: wrong_samples_figure(
                samples.pixels,
                samples.names,
                labels,
                predictions.subset(worst).probabilities,
                predictions.class_names,
                title=title,
            ),
        )
        losses, confidence = predictions.losses[worst], predictions.confidence[worst]
        classes = [
            [predictions.class_names[k] for k in of[worst]] for of in (predictions.labels, predictions.predicted)
        ]
        table = zip(samples.pixels, samples.names, *classes, confidence.tolist(), losses.tolist(), strict=True)
        columns = ["image", "name", "label", "predicted", "confidence", "loss"]
        show_table(trainer, "wrong_samples/val/table", columns, table)


def network_of(module: LightningModule) -> nn.Module:
    """The module's `network` if it has one, otherwise the module."""
    network = getattr(module, "network", module)
    return plain(network if isinstance(network, nn.Module) else module)


def probabilities_of(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Softmax (B, K) of the network's logits for images (B, C, H, W), in eval mode."""
    with preserve_state(network), torch.no_grad():
        probabilities: NDArray[np.float32] = network(at_home(images, network)).float().softmax(1).cpu().numpy()
    return probabilities


def has_images(trainer: Trainer) -> bool:
    """Whether images can be fetched from the data module by their place in the split."""
    data = getattr(trainer, "datamodule", None)
    return all(hasattr(data, name) for name in ("samples", "image", "preprocessing"))


def samples_at(trainer: Trainer, places: Sequence[int] | NDArray[np.int64]) -> Samples:
    """Validation samples by their places, if the data module `has_images`.

    Not from a batch, which may hold cached features in place of images.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    split = data.samples("val")
    pixels = np.stack([data.image("val", int(place)) for place in places])
    labels = np.asarray(split.labels)[np.asarray(places, dtype=np.int64)]
    return Samples(data.preprocessing.normalize(pixels), pixels, labels, [split.names[place] for place in places])


def samples_of(batch: object, number: int) -> Samples | None:
    """The first samples of a batch (images, labels), or None for anything else."""
    if not (isinstance(batch, Sequence) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2])):
        return None
    images, labels = batch[0][:number].detach().clone().float().cpu(), batch[1][:number]
    if images.ndim != 4 or labels.ndim != 1 or labels.is_floating_point():
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


def _spread(trainer: Trainer, number: int) -> Samples | None:
    if not has_images(trainer):
        return None
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    size = len(data.samples("val"))
    return samples_at(trainer, np.linspace(0, size - 1, min(number, size)).astype(np.int64))
