"""Transfer learning: a classifier whose network is pretrained, and which layers of it train in which epoch."""

import itertools
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from litlens.errors import UserError
from litlens.models.backbones import FrozenLayers, TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.optimization import innermost

Strategy = Literal["scratch", "frozen", "partial", "finetune", "auto"]

# The entries for learning rates in the parameter groups of torch's optimizers and schedules.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


class TransferClassifier(ImageClassifier):
    """Trains the head of a `TransferNetwork` and the part of its base that `strategy` names.

    * `scratch`: all layers, from random weights
    * `frozen`: the head; the base is frozen: its weights and BatchNorm statistics stay, and its Dropout is off
    * `partial`: the head and the base from `train_from` up; the layers below are frozen
    * `finetune`: all layers
    * `auto`: for random weights `scratch`; for pretrained ones `frozen`, or with `train_from` a cached `partial`

    With `unfreeze_epoch`, `partial` and `finetune` have two stages: before that epoch, only the head trains.

    Args:
        network: Base and head.
        class_names: The K classes, in the order of their labels.
        strategy: Which layers train.
        train_from: The lowest layer that trains under `partial`: `layer4`, `features.17`, `block5_conv1`.
        unfreeze_epoch: The first epoch, counted from 0, in which more than the head trains.
        unfreeze_lr_scale: The factor of all learning rates from that epoch on.
        lr_depth_decay: The learning rate of each layer of the base, relative to the layer above; the top layer has the
            optimizer's. `lr_scales: {head: 10}` gives the head another; where both apply, they are multiplied.
        cache_features: Whether the output of the frozen layers is computed once per image and cached, in training and
            validation; by default only for `frozen`.
        cached_augmentations: The number K of augmentations that are cached of each training image: epoch e has those of
            epoch e mod K.
        feature_memory: GiB of features per split that are held in memory; larger features stay in a mapped file.
        **kwargs: As for `ImageClassifier`.
    """

    network: TransferNetwork

    def __init__(
        self,
        network: TransferNetwork,
        class_names: list[str],
        strategy: Strategy = "frozen",
        train_from: str | None = None,
        unfreeze_epoch: int | None = None,
        unfreeze_lr_scale: float = 0.1,
        lr_depth_decay: float = 1.0,
        cache_features: bool | None = None,
        cached_augmentations: int = 1,
        feature_memory: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, class_names, **kwargs)
        mixes = bool(self.mixup or self.cutmix)
        if strategy == "auto":
            if network.weights_source is None:
                strategy, train_from, cache_features = "scratch", None, False
            elif train_from is None:
                strategy = "frozen"
            else:
                strategy = "partial"
                cache_features = network.can_be_split and not mixes if cache_features is None else cache_features
            # A checkpoint says what was trained: rebuilt from it, the network has no `weights_source`.
            self.arguments.update(strategy=strategy, train_from=train_from, cache_features=cache_features)
        if (strategy == "partial") != (train_from is not None):
            raise UserError(
                "model.train_from: strategy partial needs the lowest layer that trains, and no other strategy takes it"
            )
        if strategy == "scratch" and network.weights_source is not None:
            raise UserError("model.strategy: scratch starts from random weights: set network.weights to null")
        if unfreeze_epoch is not None and strategy not in ("partial", "finetune"):
            raise UserError(f"model.unfreeze_epoch: strategy {strategy} never unfreezes: use partial or finetune")
        if cached_augmentations < 1:
            raise UserError(f"model.cached_augmentations: {cached_augmentations}: give 1 or more")
        for name, value in {"unfreeze_lr_scale": unfreeze_lr_scale, "lr_depth_decay": lr_depth_decay}.items():
            if value <= 0:
                raise UserError(f"model.{name}: {value} is not positive: give a number above 0")
        self.strategy: Strategy = strategy
        self.train_from, self.unfreeze_epoch = train_from, unfreeze_epoch
        self.unfreeze_lr_scale, self.lr_depth_decay = unfreeze_lr_scale, lr_depth_decay
        self.cache_features = cache_features
        self.cached_augmentations, self.feature_memory = cached_augmentations, feature_memory
        if lr_depth_decay != 1:
            depth = network.depth_scales(lr_depth_decay)
            self.lr_scales = {
                name: depth.get(innermost(name, depth), 1.0) * self.lr_scales.get(innermost(name, self.lr_scales), 1.0)
                for name in {"head": 1.0, **depth, **self.lr_scales}
            }

        self._caches_features = (strategy == "frozen" and not mixes) if cache_features is None else cache_features
        if self._caches_features and mixes:
            raise UserError("model.cache_features: mixup and cutmix mix images, not features: set it to false")
        everything = {"frozen": len(network.layer_names), "scratch": 0, "finetune": 0}
        self._lowest = network.layer_index(train_from) if train_from else everything[strategy]
        if self._caches_features and self._lowest == 0 and unfreeze_epoch is None:
            raise UserError(f"model.cache_features: strategy {strategy} freezes no layer: set it to false")
        if self._caches_features and not network.can_be_split and 0 < self._lowest < len(network.layer_names):
            raise UserError(
                f"model.cache_features: {network.arguments['backbone']} can only be split below its head: "
                "set it to false, or strategy to frozen"
            )

    def first_trainable_layer(self, epoch: int | None) -> int:
        """The index of the lowest layer that trains in an epoch; with None, in any epoch."""
        if epoch is not None and self.unfreeze_epoch is not None and epoch < self.unfreeze_epoch:
            return len(self.network.layer_names)
        return self._lowest

    def frozen_layers(self, epoch: int) -> FrozenLayers | None:
        """The layers whose output a data module may cache in this epoch; None if the network needs the images."""
        layer = self.first_trainable_layer(epoch)
        return FrozenLayers(self.network, layer) if self._caches_features and layer > 0 else None

    def setup(self, stage: str) -> None:
        """Hand the frozen layers to the data module."""
        super().setup(stage)
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        # Lightning sets the data module up first, which ends the cache of an earlier fit.
        if stage == "fit" and self._caches_features and hasattr(datamodule, "cache_features"):
            datamodule.cache_features(self.frozen_layers, views=self.cached_augmentations, memory=self.feature_memory)

    def configure_callbacks(self) -> list[Callback]:
        return [Freezing()] if self._lowest > 0 or self.unfreeze_epoch is not None else []


class Freezing(Callback):
    """Freezes the layers below the classifier's `first_trainable_layer(epoch)`, before every epoch and after a resume.

    Which layers are frozen follows from the epoch alone; Lightning's `BaseFinetuning` forgets it on resume
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21901). At the epoch of unfreezing, every learning rate is
    multiplied by `unfreeze_lr_scale`, once: the optimizer's state has a flag for it.

    Under DDP, every layer that ever trains requires gradients when the reducer is built, before the first epoch: the
    reducer never synchronizes other layers.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze what never trains before DDP builds its reducer, and prepare DDP for layers that train later."""
        if stage != "fit":
            return
        self._epoch = None
        module: Any = pl_module
        # Modes are set with the epochs: Lightning warns of layers that are in evaluation mode before.
        module.network.freeze_below(module.first_trainable_layer(None), modes=False)
        if module.unfreeze_epoch is not None and isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._apply(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch != self._epoch:  # a run that resumes within an epoch does not start that epoch again
            self._apply(trainer, pl_module)

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        self._epoch = trainer.current_epoch
        module.network.freeze_below(module.first_trainable_layer(self._epoch))
        if module.unfreeze_epoch is None or self._epoch < module.unfreeze_epoch:
            return
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if not group.get("unfrozen"):
                    group["unfrozen"] = True
                    group.update({key: group[key] * module.unfreeze_lr_scale for key in _RATES if key in group})
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            if not getattr(schedule, "unfrozen", False):
                schedule.unfrozen = True  # torch's schedules save all their attributes
                parts = getattr(schedule, "_schedulers", [schedule])  # those of a SequentialLR
                for part, name in itertools.product(parts, ("base_lrs", "max_lrs")):  # the second is CyclicLR's
                    if hasattr(part, name):
                        setattr(part, name, [rate * module.unfreeze_lr_scale for rate in getattr(part, name)])
