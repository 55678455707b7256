"""TransferClassifier under a Trainer: frozen layers do not change by a bit in any strategy, stage or resumed run."""

import hashlib
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from litlens.callbacks.random_state import RandomState
from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.data.module import ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError
from litlens.explain.cam import cam
from litlens.models.backbones import TransferNetwork
from litlens.models.schedules import WarmupCosineLR
from litlens.models.transfer import TransferClassifier


class Blobs(ImageDataModule):
    """40 images of noise, bright or dark: 24, 8 and 8."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"normalize": "imagenet", "batch_size": 8, **options})
        self.class_names, self.in_channels, self.image_size = ["dark", "bright"], 3, (32, 32)

    def load(self) -> dict[str, Split]:
        labels = np.arange(40) % 2
        noise = np.random.default_rng(0).integers(0, 130, (40, 32, 32, 3))
        images = ArrayImages((noise + 100 * labels[:, None, None, None]).astype(np.uint8))
        parts = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
        return {
            name: Split(images, np.array(rows), labels[rows], [str(row) for row in rows])
            for name, rows in parts.items()
        }


def classifier(backbone: str = "shufflenet_v2_x0_5", **options: Any) -> TransferClassifier:
    seed_everything(3, verbose=False)
    network = TransferNetwork(image_size=(32, 32), backbone=backbone, head=[6], dropout=0.3)
    rate = options.pop("lr", 0.01)
    return TransferClassifier(network, ["dark", "bright"], optimizer=partial(torch.optim.AdamW, lr=rate), **options)


def trainer(epochs: int = 2, **options: Any) -> Trainer:
    options.setdefault("enable_checkpointing", False)
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def hashes(network: nn.Module) -> dict[str, str]:
    """A digest of every parameter and buffer."""
    return {
        name: hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, value in network.state_dict().items()
    }


def changed(before: dict[str, str], network: nn.Module) -> set[str]:
    return {name for name, value in hashes(network).items() if value != before[name]}


STAGES = ("conv1", "stage2", "stage3", "stage4", "conv5", "head")


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"strategy": "scratch"}, STAGES),
        ({"strategy": "frozen"}, ("head",)),
        ({"strategy": "partial", "train_from": "stage4"}, ("stage4", "conv5", "head")),
        ({"strategy": "finetune"}, STAGES),
    ],
)
def test_frozen_layers_do_not_change(options: dict[str, Any], trained: tuple[str, ...], cached: bool) -> None:
    if cached and trained == STAGES:
        pytest.skip("nothing is frozen")
    model = classifier(**options, cache_features=cached)
    before = hashes(model.network)
    trainer().fit(model, datamodule=Blobs())
    expected = {name for name in before if name.startswith(trained)}
    assert changed(before, model.network) == expected  # BatchNorm's statistics are among them


class Modes(Callback):
    """Records in every step which modules are in training mode and which weights require gradients."""

    def __init__(self) -> None:
        self.seen: list[tuple[set[str], set[str]]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        network: Any = pl_module.network
        training = {name.split(".")[0] for name, module in network.named_modules() if name and module.training}
        wanting = {name.split(".")[0] for name, weight in network.named_parameters() if weight.requires_grad}
        self.seen.append((training, wanting))


def test_dropout_of_frozen_layers_is_off_in_all_epochs() -> None:
    modes = Modes()
    # Its blocks have stochastic depth, a dropout of whole branches.
    model = classifier("efficientnet_b0", strategy="frozen", cache_features=False)
    trainer(callbacks=[modes]).fit(model, datamodule=Blobs())
    assert modes.seen == [({"head"}, {"head"})] * 6


STAGED: dict[str, Any] = {"strategy": "partial", "train_from": "conv5", "unfreeze_epoch": 2, "unfreeze_lr_scale": 0.1}


@pytest.mark.parametrize("cached", [True, False])
def test_stages_follow_the_epoch(cached: bool) -> None:
    modes, model = Modes(), classifier(**STAGED, cache_features=cached)
    before = hashes(model.network)
    fit = trainer(2)
    fit.fit(model, datamodule=Blobs())
    assert {name.split(".")[0] for name in changed(before, model.network)} == {"head"}
    model = classifier(**STAGED, lr_scales={"head": 2}, cache_features=cached)
    fit = trainer(4, callbacks=[modes])
    fit.fit(model, datamodule=Blobs())
    assert modes.seen == [({"head"}, {"head"})] * 6 + [({"conv5", "head"}, {"conv5", "head"})] * 6
    assert {name.split(".")[0] for name in changed(before, model.network)} == {"conv5", "head"}
    rates = {group["name"]: group["lr"] for group in fit.optimizers[0].param_groups}
    assert rates == pytest.approx({"weights": 0.001, "biases": 0.001, "head_weights": 0.002, "head_biases": 0.002})


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "stopped.ckpt")


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("step", [2, 6, 7, 9, 10])  # in stage 1, at its end, and in stage 2, at and within epochs
def test_a_run_resumes_bit_for_bit_in_both_stages(step: int, cached: bool, tmp_path: Path) -> None:
    options = {**STAGED, "cache_features": cached, "cached_augmentations": 2}
    data = {"augment": [{"horizontal_flip": {"p": 1.0}}]}
    whole = classifier(**options)
    trainer(4, callbacks=[RandomState(), Stop(step)], default_root_dir=tmp_path).fit(whole, datamodule=Blobs(**data))
    resumed = classifier(**options)
    torch.manual_seed(99)
    again = trainer(4, callbacks=[RandomState()])
    again.fit(resumed, datamodule=Blobs(**data), ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    assert hashes(resumed.network) == hashes(whole.network)
    assert [group["lr"] for group in again.optimizers[0].param_groups] == pytest.approx([0.001, 0.001])


@pytest.mark.parametrize("step", [2, 6, 7, 9])
def test_rates_by_depth_resume_bit_for_bit_under_a_schedule(step: int, tmp_path: Path) -> None:
    def fine_tuned() -> TransferClassifier:
        model = classifier(strategy="finetune", unfreeze_epoch=2, lr_scales={"head": 2}, lr_depth_decay=0.8)
        model.lr_scheduler = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01)
        return model

    whole, resumed = fine_tuned(), fine_tuned()
    before = hashes(whole.network)
    first = trainer(4, callbacks=[RandomState(), Stop(step)], default_root_dir=tmp_path)
    first.fit(whole, datamodule=Blobs())
    torch.manual_seed(99)
    again = trainer(4, callbacks=[RandomState()])
    again.fit(resumed, datamodule=Blobs(), ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    assert changed(before, whole.network) == set(before)  # of the base, too
    assert hashes(resumed.network) == hashes(whole.network)
    for mine, theirs in zip(again.optimizers[0].param_groups, first.optimizers[0].param_groups, strict=True):
        assert {key: mine[key] for key in mine if key != "params"} == {
            key: theirs[key] for key in theirs if key != "params"
        }
    tops = {group["name"].split("_")[0]: group["max_lr"] for group in again.optimizers[0].param_groups}
    assert tops.pop("head") == pytest.approx(2 * 0.1 * 0.01)
    # The base's layers from the top: conv5's ReLU has no weights and takes no step of the decay.
    base = list(tops.values())[::-1]
    assert base[0] == pytest.approx(0.1 * 0.01)
    assert all(below == pytest.approx(0.8 * above) for above, below in itertools.pairwise(base))


def test_a_warm_up_in_which_layers_are_unfrozen_ends_at_the_scaled_rate() -> None:
    model = classifier(**STAGED, cache_features=False)  # unfrozen after six of twelve steps
    model.lr_scheduler = partial(WarmupCosineLR, warmup=0.75)
    rates: list[float] = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(4, callbacks=[Rates()]).fit(model, datamodule=Blobs())
    factors = [0.01 + 0.99 * step / 9 for step in range(9)]
    factors += [(1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    scales = [0.01] * 6 + [0.001] * 6
    assert rates == pytest.approx([scale * factor for scale, factor in zip(scales, factors, strict=True)])


@pytest.mark.parametrize(
    ("backbone", "scales", "expected"),
    [
        (
            "squeezenet1_1",
            {"features": 0.5, "features.10": 3.0, "head": 2.0},
            {"head": 2.0, "features.12": 0.5, "features.11": 0.05, "features.10": 0.03, "features.9": 0.0005},
        ),
        # Under `base` is what is in no layer: the class token.
        (
            "vit_b_32",
            {"base": 0.5, "base.encoder": 3.0},
            {"head": 1.0, "base.encoder": 3.0, "base.conv_proj": 0.05, "base": 0.005},
        ),
    ],
)
def test_lr_scales_multiply_the_decay_by_depth(
    backbone: str, scales: dict[str, float], expected: dict[str, float]
) -> None:
    with torch.device("meta"):
        network = TransferNetwork(image_size=(64, 64), backbone=backbone)
    model = TransferClassifier(network, ["a", "b"], lr_depth_decay=0.1, lr_scales=scales)
    groups = {group["name"]: group for group in model.build_optimizer().param_groups}
    assert {name: groups[name]["lr"] for name in expected} == {
        name: pytest.approx(0.001 * scale) for name, scale in expected.items()
    }
    parameters = [id(weight) for group in groups.values() for weight in group["params"]]
    assert sorted(parameters) == sorted(id(weight) for weight in network.parameters())


def test_schedules_continue_from_the_lower_rate() -> None:
    model = classifier(**STAGED, lr=1.0)
    model.lr_scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    fit = trainer(4)
    fit.fit(model, datamodule=Blobs())
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)


def test_cycles_continue_between_the_lower_rates() -> None:
    model = classifier(**STAGED, lr_scales={"head": 2})
    model.lr_scheduler = partial(
        torch.optim.lr_scheduler.CyclicLR, base_lr=0.2, max_lr=1.0, step_size_up=4, cycle_momentum=False
    )
    fit = trainer(4)
    fit.fit(model, datamodule=Blobs())
    # After 12 steps, 4 of them up, 4 down and 4 up, at the top.
    rates = {group["name"]: group["lr"] for group in fit.optimizers[0].param_groups}
    assert rates == pytest.approx({"weights": 0.1, "biases": 0.1, "head_weights": 0.2, "head_biases": 0.2})
    assert fit.lr_scheduler_configs[0].scheduler.base_lrs[0] == pytest.approx(0.1 * 0.2)


def test_two_processes_keep_the_same_weights_through_both_stages(tmp_path: Path) -> None:
    model = classifier(**STAGED, cache_features=True)
    before = hashes(model.network)
    fit = trainer(3, strategy="ddp_spawn", devices=2, callbacks=[_SaveWeights(tmp_path)], num_sanity_val_steps=0)
    fit.fit(model, datamodule=Blobs(batch_size=4))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if "conv5" in name or "head" in name)
    model.network.load_state_dict(first)
    assert {name.split(".")[0] for name in changed(before, model.network)} == {"conv5", "head"}


class _SaveWeights(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Running statistics are each rank's own until the next step: DDP copies the first one's then.
        network: Any = pl_module.network
        torch.save(dict(network.state_dict()), self.folder / f"{trainer.global_rank}.pt")


def test_a_checkpoint_rebuilds_the_complete_network(tmp_path: Path) -> None:
    model = classifier(**STAGED)
    fit = trainer(1)
    fit.fit(model, datamodule=Blobs())
    fit.save_checkpoint(tmp_path / "c.ckpt")
    loaded = load_classifier(tmp_path / "c.ckpt").classifier
    assert isinstance(loaded, TransferClassifier)
    assert (loaded.strategy, loaded.train_from, loaded.unfreeze_epoch) == ("partial", "conv5", 2)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model.eval()(images))
    assert cam(loaded.network, images).maps.shape == (2, 32, 32)


@pytest.mark.parametrize("normalize", ["half", "imagenet"])
def test_data_normalized_otherwise_are_refused_before_the_first_step(normalize: str, tmp_path: Path) -> None:
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "w.pth")
    network = TransferNetwork(image_size=(32, 32), backbone="shufflenet_v2_x0_5", weights=str(tmp_path / "w.pth"))
    model, fit, data, before = (
        TransferClassifier(network, ["a", "b"]),
        trainer(1),
        Blobs(normalize=normalize),
        hashes(network),
    )
    if normalize == "imagenet":
        fit.fit(model, datamodule=data)
        assert fit.global_step == 3
        return
    with pytest.raises(UserError, match=r"^data\.normalize: .* set data\.normalize to imagenet$"):
        fit.fit(model, datamodule=data)
    assert fit.global_step == 0
    assert hashes(network) == before
    trainer(1).test(model, datamodule=data, verbose=False)
    fit = trainer(1)
    fit.fit(model, data.train_dataloader(), data.val_dataloader())  # which say nothing of their pixels
    assert fit.global_step == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "partial"}, "partial needs the lowest layer"),
        ({"strategy": "frozen", "train_from": "conv5"}, "no other strategy takes it"),
        ({"strategy": "partial", "train_from": "layer4"}, "shufflenet_v2_x0_5 has no layer 'layer4'"),
        ({"strategy": "frozen", "unfreeze_epoch": 2}, "frozen never unfreezes"),
        ({"strategy": "scratch", "cache_features": True}, "scratch freezes no layer"),
        ({"strategy": "frozen", "cache_features": True, "mixup": 0.2}, "mix images, not features"),
        ({"cached_augmentations": 0}, "cached_augmentations: 0"),
        ({"lr_depth_decay": 0.0}, "lr_depth_decay: 0.0"),
    ],
)
def test_a_wrong_combination_of_options_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**options)


def test_auto_freezes_pretrained_weights_and_trains_random_ones(tmp_path: Path) -> None:
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "w.pth")

    def trained(weights: str | None, **options: Any) -> TransferClassifier:
        network = TransferNetwork(image_size=(32, 32), backbone="mobilenet_v2", weights=weights)
        return TransferClassifier(network, ["dark", "bright"], strategy="auto", **options)

    pretrained = trained(str(tmp_path / "w.pth"))
    upper = trained(str(tmp_path / "w.pth"), train_from="features.17")
    random = trained(None, train_from="features.17")
    assert (pretrained.strategy, upper.strategy, random.strategy) == ("frozen", "partial", "scratch")
    assert (upper.train_from, random.train_from) == ("features.17", None)
    assert pretrained.frozen_layers(0) is not None
    assert upper.frozen_layers(0) is not None
    assert trained(str(tmp_path / "w.pth"), mixup=0.2).frozen_layers(0) is None  # images are mixed, not features
    assert random.frozen_layers(0) is None
    # A checkpoint says what was trained, where its network has no weights file.
    assert pretrained.arguments["strategy"] == "frozen"
