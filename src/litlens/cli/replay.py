"""The batch of one training step of a run, as the network saw it."""

import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from litlens.callbacks.random_state import RandomState
from litlens.checkpoints.reading import previous_checkpoint, read_checkpoint
from litlens.cli.parser import TrainingCommand
from litlens.cli.run_folder import CONFIG, LAST
from litlens.data import sampling
from litlens.data.module import ImageDataModule
from litlens.errors import UserError


@dataclass(frozen=True)
class Replay:
    """The samples of one optimizer step, those of all devices and accumulated batches together.

    Args:
        images: float32 (B, C, H, W), normalized and augmented, before MixUp and CutMix.
        labels: int64 (B,).
        names: The images' names, as in splits.csv.
        epoch: The epoch of the step, from 0.
        batches: The step's batches of that epoch, from 0; one, unless gradients are accumulated.
        loss: The loss of the first of them on the first device, where the run's `last.ckpt` or `last-previous.ckpt` is
            of this step; else None, and where batch norm was synchronized.
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    epoch: int
    batches: range
    loss: float | None


def replay(run: str | Path, step: int) -> Replay:
    """Return the batch of an optimizer step (from 0) of the run in a folder, from its configuration and its data.

    Seeds the global random generators, as the run did. Raises UserError where the folder is not a run, its images have
    changed, or no such step can be.
    """
    config = Path(run) / CONFIG  # a trial's own: `--resume` would take that of the search
    if not config.is_file():
        raise UserError(f"there is no {config}: give the folder of a run")
    command = TrainingCommand(["--config", str(config)])
    if command.config.search is not None:
        raise UserError(
            f"{run} is a search, which trains in the folders of its trials: give {Path(run) / 'trial-0'}, say"
        )
    data = command.build_data(splits_of=Path(run))
    data.prepare_data()
    data.setup("fit")
    checkpoints = [path for path in (Path(run) / LAST, previous_checkpoint(Path(run) / LAST)) if path.is_file()]
    saved = {path: read_checkpoint(path) for path in checkpoints}
    devices = max((each["litlens"].get("computed_on", {}).get("devices", 1) for each in saved.values()), default=1)
    options: Any = command.config.trainer
    epoch, batches, requests = _batches(options, data, step=step, devices=devices)
    dataset, names = data.train_dataloader().dataset, data.samples("train").names
    fetched = [dataset.fetch((epoch, indices)) for indices in requests]
    path = next((path for path, each in saved.items() if each["global_step"] == step), None)
    if devices > 1 and options.sync_batchnorm:
        path = None
    return Replay(
        data.preprocessing.normalize(torch.cat([images for images, _ in fetched])),
        torch.cat([labels for _, labels in fetched]),
        [names[index] for indices in requests for index in indices],
        epoch,
        batches,
        _loss(command, data, path, epoch=epoch, devices=devices) if path is not None else None,
    )


def _batches(
    options: Any, data: ImageDataModule, *, step: int, devices: int
) -> tuple[int, range, list[sampling.Indices]]:
    """The epoch of a step, its batches, and the indices of each on each device."""
    order: dict[str, Any] = {"size": len(data.samples("train").labels), "batch_size": data.batch_size}
    number, _ = sampling.training_shape(**order, world_size=devices)
    # Of the two limits, Lightning takes the one that overfits.
    limit = options.overfit_batches or options.limit_train_batches
    if limit is not None:
        number = min(number, limit) if isinstance(limit, int) else int(number * limit)
    accumulated = options.accumulate_grad_batches
    if step < 0 or number == 0:
        raise UserError(f"step: {step}: the run has no such step: give 0 or more")
    epoch, of_epoch = divmod(step, math.ceil(number / accumulated))
    batches = range(of_epoch * accumulated, min(number, (of_epoch + 1) * accumulated))
    shuffled = 0 if options.overfit_batches else epoch  # the same few batches in every epoch
    of_ranks = [
        sampling.training_indices(
            seed=data.seed, epoch=shuffled, rank=rank, world_size=devices, balance=data.balance, **order
        )
        for rank in range(devices)
    ]
    return epoch, batches, [np.asarray(of_rank[batch]) for batch in batches for of_rank in of_ranks]


class _Computed(Exception):  # noqa: N818  (not an error)
    """Ends the fit: the loss, float32 ()."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__()
        self.loss = loss


def _loss(command: TrainingCommand, data: ImageDataModule, checkpoint: Path, *, epoch: int, devices: int) -> float:
    """The loss of the step after a checkpoint, by Lightning's own resumption: precision, dropout and MixUp alike.

    On one device, whose batches are those of all devices together; every W-th image is the first one's.
    """
    options: Any = command.config.trainer
    classifier = command.build(command.config.clone(), data).model
    plain, size = classifier.training_step, len(data.samples("train"))
    data.batch_size = devices * sampling.training_shape(size=size, batch_size=data.batch_size, world_size=devices)[1]

    def training_step(batch: Any, batch_idx: int) -> None:
        images, labels = batch
        raise _Computed(plain((images[::devices], labels[::devices]), batch_idx))

    classifier.training_step = training_step
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of the callbacks that the checkpoint knows, dropout's random state alone matters here.
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=options.precision,
            max_epochs=max(epoch + 1, options.max_epochs or 0),
            limit_train_batches=options.limit_train_batches,
            overfit_batches=options.overfit_batches,
            accumulate_grad_batches=options.accumulate_grad_batches,
            deterministic=options.deterministic,
            num_sanity_val_steps=0,
            callbacks=[RandomState()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except _Computed as computed:
            return float(computed.loss.detach())
    raise UserError(f"{checkpoint}: the run ended with this step: it has no loss")
