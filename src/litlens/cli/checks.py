"""Checks before anything is trained or written: settings of the trainer that a run does not support."""

import math
import os
import shutil
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import ParallelStrategy
from torch import nn

from litlens.data.module import SPLITS, ImageDataModule
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.optimization import cpu_has_bf16


def check_checkpointing(config: Namespace) -> None:
    """Raise UserError where the best checkpoint would not be complete, or not hold the weights that were validated."""
    options, trainer = config.model_checkpoint.init_args, config.trainer
    if options.get("save_top_k", 1) != 1:
        raise UserError(
            f"model_checkpoint.save_top_k: {options['save_top_k']}: a run keeps its best checkpoint, which is tested, "
            "and its last: remove it"
        )
    if options.get("save_weights_only"):
        raise UserError("model_checkpoint.save_weights_only: true leaves out how to rebuild the classifier: remove it")
    # Lightning pairs weights that are saved between two validations with the metrics of the earlier one
    # (https://github.com/Lightning-AI/pytorch-lightning/issues/20919).
    unvalidated = [key for key in ("every_n_train_steps", "train_time_interval") if options.get(key)]
    every_epoch = trainer["val_check_interval"] in (None, 1.0) and trainer["check_val_every_n_epoch"] == 1
    if options.get("save_on_train_epoch_end") and not every_epoch:
        unvalidated.append("save_on_train_epoch_end")
    if unvalidated:
        raise UserError(
            f"model_checkpoint.{unvalidated[0]}: {options[unvalidated[0]]} would save weights that were not validated: "
            "remove it; a checkpoint is saved after every validation, as often as trainer.val_check_interval says"
        )


# Callbacks of Lightning whose effect would be lost, the first two on resume, with the reason and what to do instead.
_REFUSED: dict[type[Callback], str] = {
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21901
    BackboneFinetuning: "a resumed run would not train the backbone: use TransferClassifier with model.strategy: "
    "finetune and model.unfreeze_epoch",
    ModelPruning: "a resumed run would train the pruned weights again: prune the trained network, "
    "load_classifier(RUN_DIR).network, by torch.nn.utils.prune",
    StochasticWeightAveraging: "no checkpoint would have the average: use --config configs/with/swa.yaml",
}


def check_callbacks(callbacks: list[Callback]) -> None:
    """Raise UserError for callbacks of Lightning whose effect would be lost."""
    for callback in callbacks:
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks: {type(callback).__name__}: {reason}")
    averages = [type(callback).__name__ for callback in callbacks if isinstance(callback, WeightAveraging)]
    if len(averages) > 1:
        raise UserError(f"trainer.callbacks: {averages[0]} and {averages[1]}: a run validates one average: remove one")


def check_monitors(trainer: Trainer, monitors: dict[str, ModelCheckpoint | EarlyStopping | None]) -> None:
    """Raise UserError where nothing is validated and a callback watches validation; the keys are the option groups."""
    for group, callback in monitors.items():
        monitor = callback and callback.monitor
        if trainer.limit_val_batches == 0 and monitor and monitor.endswith("/val"):
            remedy = f"{group}: null" if group == "early_stopping" else f"{group}.monitor"
            raise UserError(
                f"trainer.limit_val_batches: 0: nothing is validated, and {group} watches {monitor}: set {remedy}"
            )


def check_batches(trainer: Trainer, data: ImageDataModule) -> None:
    """Raise UserError where a limit of the trainer leaves no batch of a split, or an epoch no validation.

    Lightning says so when it makes the loader, which of the test is after the training. `data` is set up.
    """
    if trainer.limit_test_batches == 0:
        raise UserError("trainer.limit_test_batches: 0: a run ends with its test: remove it, or give a fraction")
    if empty := [split for split in SPLITS if len(data.samples(split)) == 0]:
        total = sum(len(data.samples(split)) for split in SPLITS)
        raise UserError(f"data: {total} images are too few: none is left for {' and '.join(empty)}: add images")
    batches = {split: _number_of_batches(data, split, devices=trainer.world_size) for split in SPLITS}
    for split, number in batches.items():
        limit = getattr(trainer, f"limit_{split}_batches")
        if isinstance(limit, float) and limit > 0 and number and int(number * limit) == 0:
            overfit = getattr(trainer, "overfit_batches", 0) > 0 and split != "test"
            key = "overfit_batches" if overfit else f"limit_{split}_batches"
            raise UserError(
                f"trainer.{key}: {limit} of the {number} batches of {split} is less than one batch: give at least "
                f"{math.ceil(1000 / number) / 1000:g}, or a number of batches such as 1"
            )
    interval, train = trainer.val_check_interval, _limited(batches["train"], trainer.limit_train_batches)
    whole_run = trainer.check_val_every_n_epoch is None
    if type(interval) is int and interval > train and not whole_run and trainer.limit_val_batches != 0:
        raise UserError(
            f"trainer.val_check_interval: {interval} is more than the {train} batches of an epoch: give at most "
            f"{train}, or set trainer.check_val_every_n_epoch: null, which counts over epochs"
        )


def check_model(classifier: ImageClassifier, data: ImageDataModule) -> None:
    """Raise UserError where the optimizer refuses its options, a batch has no statistics, or nothing compiles."""
    classifier.build_optimizer()
    if classifier.torch_compile:
        _check_compilation(classifier.torch_compile if isinstance(classifier.torch_compile, dict) else {})
    flat = next((name for name, part in classifier.network.named_modules() if isinstance(part, nn.BatchNorm1d)), None)
    if data.batch_size == 1 and flat is not None:
        raise UserError(f"data.batch_size: 1: batch norm ({flat}) needs at least two images: give 2 or more")


def _check_compilation(options: dict[str, Any]) -> None:
    compilers = (os.environ.get("CXX", "g++"), "gcc", "clang++", "cl")
    if options.get("backend", "inductor") == "inductor" and not any(map(shutil.which, compilers)):
        raise UserError("model.torch_compile: there is no C++ compiler: install g++, or set it to false")
    try:
        torch.compile(lambda: None, **options)
    except (RuntimeError, TypeError) as error:  # of an unknown mode, of an unknown option
        raise UserError(f"model.torch_compile: {options}: {error}") from error


def check_sync_batchnorm(trainer: Trainer, classifier: ImageClassifier, *, asked: bool) -> None:
    """Raise UserError where batch norm cannot be over the images of all devices, as `sync_batchnorm` asks."""
    norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in classifier.network.modules())
    parallel = isinstance(trainer.strategy, ParallelStrategy)  # converts them on one device, too
    if asked and norms and parallel and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm: torch's SyncBatchNorm needs GPUs: set it to false on the CPU")


def available_precision(asked: str | int | None, *, accelerator: str) -> str | int | None:
    """The precision asked for; on a processor bf16-mixed for 16-mixed, and 32-true for both where it has no bf16.

    Lightning computes 16-mixed in bf16 there. Without bf16, torch emulates it: a step of the scratch CNNs takes 8 to
    12 times as long as in float32 (docs/precision.json), so a config that is fast on one machine would not end on
    another.
    """
    devices = (CUDAAccelerator, MPSAccelerator, XLAAccelerator)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not any(device.is_available() for device in devices))
    if not on_cpu or asked not in ("bf16-mixed", "bf16", "16-mixed", "16", 16):
        return asked
    if not cpu_has_bf16():
        return "32-true"
    return asked if asked in ("bf16-mixed", "bf16") else "bf16-mixed"


def _number_of_batches(data: ImageDataModule, split: str, *, devices: int) -> int:
    images = len(data.samples(split).labels)
    if split == "train":  # equal batches on every device; of a small split, one
        share = images // devices
        return share // min(data.batch_size, share) if share else 0
    return math.ceil(math.ceil(images / devices) / data.batch_size)


def _limited(number: int, limit: float | int) -> int:
    return min(number, limit) if isinstance(limit, int) else int(number * limit)
