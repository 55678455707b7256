"""The LightningModule around a network: steps, metrics, optimizer, and its entry in the checkpoint."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from litlens.errors import UserError
from litlens.models.constructor_arguments import KeepsArguments, describe
from litlens.models.losses import (
    ClassWeights,
    Loss,
    balanced_weights,
    check_options,
    given_weights,
    loss_and_weight,
    one_hot,
)
from litlens.models.metrics import EpochSums, PassMetrics
from litlens.models.mixing import mix_batch
from litlens.models.optimization import adam, add_penalty_gradients, build_optimizer, check_lr_scales, kernels
from litlens.models.pretrained import check_normalization
from litlens.models.schedules import schedule

CHECKPOINT_FORMAT = 2
_MIXING = 0x6D6978  # separates this rng from others of the same seed


class ImageClassifier(KeepsArguments, LightningModule):
    """Trains and evaluates a network on batches of images (B, C, H, W) and classes int64 (B,).

    Logs `loss` and `accuracy` of train, val and test and the macro `f1` of val and test once an epoch, and
    `loss/train_step` every few steps. Losses are without penalties, and in validation and test without label smoothing
    and class weights, as in the report. Training has the trainer's precision; validation, test and prediction are in
    float32 under every mixed precision, since logits in bf16 tie.

    Args:
        network: Computes logits (B, K); a plain `nn.Module`.
        class_names: The K classes, in the order of their labels.
        optimizer: Constructs an optimizer from parameters.
        lr_scheduler: Constructs a schedule from an optimizer; a missing length follows from the trainer.
        loss: See `litlens.models.losses`.
        label_smoothing: From 0 to below 1, the share of the target that is divided among all classes; training only.
        class_weights: Training only: K numbers, numbers by class (`{cat: 2.0}`, of the others 1), or `balanced`:
            inversely proportional to the training counts.
        l1: Weight of Σ|w| over kernels, not biases.
        l2: Weight of Σw² over kernels, not biases; with SGD, half of torch's weight decay.
        mixup: Alpha of MixUp, 0 for none; with CutMix as well, a fair coin decides for each batch.
        cutmix: Alpha of CutMix, 0 for none.
        lr_scales: Factors of the learning rate by module or parameter of the network: `{head: 0.03}`.
        channels_last: Whether images and weights have the memory format in which convolutions are fastest.
        torch_compile: Whether to compile the network for training, or options of torch.compile: `{mode: max-autotune}`.
        init_from: A run or checkpoint whose weights the command starts from; not used by the classifier itself.
    """

    # Options of a subclass are recorded and restored from a checkpoint in the same way.
    not_kept: ClassVar[frozenset[str]] = frozenset({"optimizer", "lr_scheduler", "torch_compile", "init_from"})

    def __init__(
        self,
        network: nn.Module,
        class_names: list[str],
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.001),
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        l1: float = 0.0,
        l2: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        lr_scales: dict[str, float] | None = None,
        channels_last: bool = True,
        torch_compile: bool | dict[str, Any] = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        check_options(label_smoothing, {"l1": l1, "l2": l2, "mixup": mixup, "cutmix": cutmix})
        check_lr_scales(lr_scales or {}, network)
        lazy = any(is_lazy(weight) for weight in network.parameters())  # has no shape before the first batch
        self.network = network.to(memory_format=torch.channels_last) if channels_last and not lazy else network
        self.class_names = list(class_names)
        # The default is a lambda, whose source jsonargparse reads; a lambda cannot be pickled.
        self.optimizer = adam if optimizer is _DEFAULT_OPTIMIZER else optimizer
        self.lr_scheduler = lr_scheduler
        self.loss: Loss = loss
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.l1, self.l2 = l1, l2
        self.mixup, self.cutmix = mixup, cutmix
        self.lr_scales = dict(lr_scales or {})
        self.channels_last = channels_last
        self.torch_compile = torch_compile
        self._compiled: Callable[..., Any] | None = None
        self.init_from = init_from
        # The rebuild record, if it has been checked; otherwise `describe` makes it on saving.
        self.record: dict[str, Any] | None = None

        # Not a buffer: an average of the weights pairs its buffers with the classifier's by position, and the balanced
        # weights would be added as one more later. The checkpoint has them in the record.
        self._class_weights = given_weights(class_weights, self.class_names)
        self._epoch = EpochSums()
        self._resumed_sums: list[list[float]] = []
        self._val, self._test = PassMetrics(self.num_classes), PassMetrics(self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, K) of images (B, C, H, W)."""
        if self.channels_last and isinstance(images, Tensor):  # a network may take features as well
            images = images.contiguous(memory_format=torch.channels_last)
        # Only in training: maps and feature maps come from hooks, which a compiled network does not call.
        network = self._compiled if self._compiled is not None and self.training else self.network
        output = network(images)
        # In training, torchvision's GoogLeNet and Inception also return the logits of their auxiliary classifiers.
        logits: Tensor = getattr(output, "logits", output)
        if logits.shape[1] != self.num_classes:
            raise UserError(
                f"{type(self.network).__name__} gives {logits.shape[1]} logits for {self.num_classes} classes: "
                "set the network's num_classes"
            )
        return logits

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the batch's loss, with mixed targets under MixUp or CutMix; accuracy counts the true classes."""
        images, labels = batch
        targets = labels
        if self.mixup or self.cutmix:
            images, targets = self._mix(images, labels, batch_idx)
        logits = self(images).float()
        loss, weight = loss_and_weight(
            logits,
            targets,
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            class_weights=self._class_weights,
        )
        self._epoch.add(loss=loss, weight=weight, logits=logits, labels=labels)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # a self.log costs as much as a small network's step
            self.log("loss/train_step", loss.detach(), on_step=True, on_epoch=False, batch_size=len(labels))
        return loss

    def _mix(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        # Not in on_after_batch_transfer: Lightning warns of an override in every run with a data module.
        # The rng follows from epoch and batch alone, so that it is the same after a resume within an epoch.
        key = [_MIXING, torch.initial_seed(), self.global_rank, self.current_epoch, batch_idx]
        shares = one_hot(labels, self.num_classes)
        rng = np.random.default_rng(key)
        return mix_batch(images, shares, mixup=self.mixup, cutmix=self.cutmix, rng=rng)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Add the gradients of the penalties, after unscaling and before clipping, as if they were in the loss."""
        if not (self.l1 or self.l2):
            return
        scale = 1.0
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scale = scaler.get_scale()  # a fused optimizer divides by it inside its step
        weights = kernels(self.network.parameters())
        add_penalty_gradients(weights, l1=self.l1 * scale, l2=self.l2 * scale)

    def on_fit_start(self) -> None:
        """Compile; compute balanced class weights from the training split, and move class weights to the device."""
        if self.torch_compile:
            options = self.torch_compile if isinstance(self.torch_compile, dict) else {}
            # The call, as nn.Module.compile does it; a compiled module would have its weights under other names.
            self._compiled = torch.compile(self.network.__call__, **options)
        if self.class_weights == "balanced":
            samples = getattr(self.trainer.datamodule, "samples", None)  # type: ignore[attr-defined]
            if samples is None:
                raise UserError(
                    "model.class_weights: balanced needs a data module with samples(): give a list of weights"
                )
            self._class_weights = balanced_weights(torch.as_tensor(samples("train").labels), self.class_names)
        if self._class_weights is not None:
            self._class_weights = self._class_weights.to(self.device)

    def on_train_start(self) -> None:
        """Continue the sums of an unfinished epoch: each device its own, or of another number of devices, its share."""
        own = self._resumed_sums[self.global_rank :: self.trainer.world_size]
        self._epoch = EpochSums(*map(sum, zip(*own, strict=True)))
        self._resumed_sums = []

    def on_train_epoch_start(self) -> None:
        self._epoch = EpochSums()  # not called when a run resumes within an epoch: the sums are continued

    def on_train_epoch_end(self) -> None:
        if self._epoch.seen == 0:
            return
        sums: Any = torch.tensor(list(self._epoch.to_dict().values()), device=self.device)
        loss, weight, correct, seen = self.trainer.strategy.reduce(sums, reduce_op="sum")  # of all ranks
        self._log_epoch("loss/train", loss / weight)
        self._log_epoch("accuracy/train", correct / seen, prog_bar=True)

    def _all_sums(self) -> Tensor:
        """The sums of the epoch so far on every device: float32 (W, 4)."""
        own = torch.tensor(list(self._epoch.to_dict().values()), device=self.device)
        if not (dist.is_available() and dist.is_initialized()):
            return own[None]
        sums = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(sums, own)
        return torch.stack(sums)

    # Evaluation

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Compute the batch's loss and logits, float32 (B, K); return them with the labels."""
        return self._evaluate(batch, self._val)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Compute the batch's loss and logits, float32 (B, K); return them with the labels."""
        return self._evaluate(batch, self._test)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the logits, float32 (B, K), of a batch of images with or without labels."""
        return self._logits_in_float32(batch if isinstance(batch, Tensor) else batch[0])

    def setup(self, stage: str) -> None:
        """Refuse data that are not normalized for the weights; allow a device without images of a small split."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            data.allow_zero_length_dataloader_with_multiple_devices = True
        normalize = getattr(getattr(data, "preprocessing", None), "normalize", None)
        if stage == "fit" and hasattr(normalize, "mean") and hasattr(normalize, "std"):
            check_normalization(self.network, normalize)

    def on_validation_epoch_start(self) -> None:
        self._val.reset()
        self._share_running_statistics()

    def on_test_epoch_start(self) -> None:
        self._test.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_pass("val", self._val)

    def on_test_epoch_end(self) -> None:
        self._log_pass("test", self._test)

    def _share_running_statistics(self) -> None:
        # DDP gives every device those of the first, in its first forward pass of the validation. A device without
        # images has none, and the others would wait for it (https://github.com/pytorch/pytorch/issues/20611).
        wrapped = self.trainer.strategy.model
        if not isinstance(wrapped, DistributedDataParallel):
            return
        if wrapped.will_sync_module_buffers():  # type: ignore[no-untyped-call]
            wrapped._sync_buffers()  # type: ignore[no-untyped-call]
            wrapped.require_forward_param_sync = False  # as after that forward pass

    def _evaluate(self, batch: Any, metrics: PassMetrics) -> dict[str, Tensor]:
        images, labels = batch
        logits = self._logits_in_float32(images)
        loss, weight = loss_and_weight(logits, labels, loss=self.loss)
        metrics.update(loss=loss, weight=weight, logits=logits, labels=labels)
        return {"loss": loss, "logits": logits, "labels": labels}

    def _logits_in_float32(self, images: Tensor) -> Tensor:
        with torch.autocast(device_type=self.device.type, enabled=False):
            logits: Tensor = self(images)
        return logits.float()

    def _log_pass(self, split: str, metrics: PassMetrics) -> None:
        for name, value in metrics.compute().items():
            self._log_epoch(f"{name}/{split}", value, prog_bar=name != "f1")

    def _log_epoch(self, name: str, value: Tensor, *, prog_bar: bool = False) -> None:
        # All ranks have the same value by now: the maximum is that value to the last bit.
        self.log(name, value, prog_bar=prog_bar, sync_dist=True, reduce_fx="max")

    # Optimization and checkpoint

    def configure_optimizers(self) -> Optimizer | OptimizerLRSchedulerConfig:
        """Build the optimizer, and the schedule with its interval if there is one."""
        optimizer = self.build_optimizer()
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedule(self.lr_scheduler, optimizer, self.trainer)}

    def build_optimizer(self) -> Optimizer:
        """Build the optimizer. Raises UserError where it refuses an option."""
        return build_optimizer(self.optimizer, self.network, self.lr_scales)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the rebuild record in plain values; entries that a callback has stored before are not changed."""
        metadata = checkpoint.setdefault("litlens", {})
        metadata.setdefault("format", CHECKPOINT_FORMAT)
        metadata.setdefault("class_names", self.class_names)
        record = self.record or describe(self)
        if self._class_weights is not None:  # the balanced ones, too
            record["init_args"]["class_weights"] = self._class_weights.tolist()
        metadata.setdefault("model", record)
        # Lightning's `load_from_checkpoint(path, network=…)` constructs the classifier from these: the options that are
        # plain values themselves. They have an older key of Lightning's, which it reads as well: a LightningCLI takes
        # what is under `hyper_parameters` for options of its own and refuses them.
        plain = {name: value for name, value in record["init_args"].items() if value == self.arguments.get(name)}
        checkpoint["module_arguments"] = {**plain, "class_weights": self.class_weights}
        checkpoint.setdefault("hyper_parameters", {})
        # Of every device, since one writes the file for all.
        metadata["epoch_sums"] = self._all_sums().tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore balanced class weights, which only training computes, and the sums of an unfinished epoch."""
        metadata = checkpoint.get("litlens", {})
        weights = metadata.get("model", {}).get("init_args", {}).get("class_weights")
        if self.class_weights == "balanced" and isinstance(weights, list):
            self._class_weights = torch.tensor(weights)
        self._resumed_sums = metadata.get("epoch_sums", [])


_DEFAULT_OPTIMIZER = inspect.signature(ImageClassifier).parameters["optimizer"].default
