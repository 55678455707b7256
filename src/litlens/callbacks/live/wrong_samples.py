"""The worst mistakes on validation."""

import logging

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from litlens.callbacks.live.drawing import due, names_of_classes, show_figure, split_title
from litlens.callbacks.live.shown_samples import (
    Samples,
    has_images,
    pixels_of,
    predictions_in,
    samples_at,
    samples_of,
)
from litlens.evaluation.sample_figures import wrong_samples_figure

_log = logging.getLogger(__name__)


class WrongSamples(Callback):
    """Shows the wrongly predicted validation samples with the highest loss: `wrong_samples/val`.

    With file name, label and the three likeliest classes. `validation_step` has to return `logits` and
    `labels`, otherwise nothing is shown; with several devices, the first one's share of the split.

    Args:
        samples: How many at most.
        every_n_epochs: How often, and at the end of a run that reaches `max_epochs`; by default about ten times.
    """

    def __init__(self, samples: int = 12, every_n_epochs: int | None = None) -> None:
        self.samples, self.every_n_epochs = samples, every_n_epochs
        self._worst: dict[str, Tensor] = {}
        self._seen = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last pass."""
        self._worst, self._seen = {}, 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the worst so far, on their device: a step waits for a copy only where images come from the batch."""
        found = predictions_in(outputs)
        if found is None or dataloader_idx or not trainer.is_global_zero or not due(trainer, self.every_n_epochs):
            return
        logits, labels = found
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        rows = {
            "losses": losses.masked_fill(logits.argmax(1) == labels, -1),
            "places": torch.arange(len(labels), device=labels.device) + self._seen,
            "labels": labels,
            "logits": logits,
        }
        self._seen += len(labels)
        if not has_images(trainer):
            given = samples_of(batch, len(labels))
            if given is None:
                return
            rows["images"] = given.images
        if self._worst:
            rows = {name: torch.cat([self._worst[name], values]) for name, values in rows.items()}
        order = rows["losses"].argsort(descending=True, stable=True)[: self.samples]
        self._worst = {name: values[order.to(values.device)] for name, values in rows.items()}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the images of the worst and draw."""
        if not self._worst:
            return
        wrong = ~(self._worst["losses"] < 0)  # NaN is
        rows = {name: values[wrong.to(values.device)] for name, values in self._worst.items()}
        self._worst = {}
        shares = rows["logits"].softmax(1).cpu().numpy()
        if not len(shares):
            return
        samples = _samples(trainer, rows)
        if not np.array_equal(samples.labels, rows["labels"].cpu().numpy()):
            _log.warning("WrongSamples: the labels are not in the data module's order, so no sample can be named")
            return
        names, title = names_of_classes(pl_module, shares.shape[1]), split_title(trainer, "val")
        show_figure(
            trainer,
            "wrong_samples/val",
            lambda: wrong_samples_figure(
                samples.pixels, samples.names, samples.labels, shares, names, title=f"{title}: the worst mistakes"
            ),
        )


def _samples(trainer: Trainer, rows: dict[str, Tensor]) -> Samples:
    # Of W devices the first has samples 0, W, 2W, ... of the split.
    places = rows["places"].cpu().numpy() * trainer.world_size
    if "images" not in rows:
        return samples_at(trainer, places)
    names = [f"val/{place:05d}" for place in places]
    return Samples(rows["images"], pixels_of(rows["images"]), rows["labels"].cpu().numpy(), names)
