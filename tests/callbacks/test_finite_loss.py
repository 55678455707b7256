"""A loss, a gradient or a weight that is NaN or infinite ends the run before it spreads, in one line."""

import math
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from litlens.callbacks.finite_loss import FiniteLoss, NotFiniteError
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.networks.scratch import MnistCNN

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*have no `val",
    "ignore:Encountered `nan` values",  # which torchmetrics leaves out of a mean
)

NAN, INF = float("nan"), float("inf")
BATCHES = 3  # in an epoch of `samples()`


class Breaks(Callback):
    """Makes the loss or the gradient of one training batch, counted over the run, NaN or infinite."""

    def __init__(self, what: str, at: int, value: float = NAN) -> None:
        self.what, self.at, self.value = what, at, value
        self.count = -1
        self.before: list[dict[str, torch.Tensor]] = []  # the state at the start of each batch

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        step = pl_module.training_step

        def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
            loss = step(batch, batch_idx)
            loss = loss["loss"] if isinstance(loss, dict) else loss
            return loss * self.value if self.what == "loss" and self.count == self.at else loss

        def backward(grad: torch.Tensor) -> torch.Tensor:
            return grad * self.value if self.what == "gradient" and self.count == self.at else grad

        pl_module.training_step = training_step
        next(pl_module.parameters()).register_hook(backward)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.count += 1
        self.before.append({name: value.clone() for name, value in pl_module.state_dict().items()})


class WithBatchNorm(LightningModule):
    """Somebody's module, whose validation returns nothing and logs a loss."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.body(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def stopped(run: Trainer, *fitted: Any) -> str:
    with pytest.raises(NotFiniteError) as raised:
        run.fit(*fitted)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def is_finite(checkpoint: Path) -> bool:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("loss", NAN, "the training loss became nan"),
        ("loss", INF, "the training loss became inf"),
        ("gradient", NAN, "the total norm of the gradients became nan"),
        ("gradient", INF, "the total norm of the gradients became inf"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}], ids=str)
def test_the_step_is_not_taken(trainer, small, samples, what, value, text, settings) -> None:
    """The fifth batch, of five epochs of three, breaks: the second of epoch 1, which ends an accumulated step."""
    classifier, breaks = small(), Breaks(what, at=4, value=value)
    line = stopped(trainer(FiniteLoss(), breaks, max_epochs=5, **settings), classifier, samples())
    accumulate = settings.get("accumulate_grad_batches", 1)
    batch = "batches 0 to 1" if accumulate == 2 and what == "gradient" else "batch 1"
    step = 2 if accumulate == 2 else 4
    assert line == (
        f"{text} in epoch 1, step {step} (lr/SGD 0.1), {batch}; the weights are as before this step. "
        "Lower the learning rate, warm it up, or set trainer.gradient_clip_val"
    )
    assert len(breaks.before) == 5
    for name, value in breaks.before[4].items():
        if name.startswith("layer"):
            assert torch.equal(classifier.state_dict()[name], value)


def test_a_bad_batch_within_an_accumulated_step_is_named(trainer, small, samples) -> None:
    line = stopped(
        trainer(FiniteLoss(), Breaks("loss", at=3), max_epochs=2, accumulate_grad_batches=2), small(), samples()
    )
    assert "epoch 1, step 2 (lr/SGD 0.1), batch 0;" in line


@pytest.mark.parametrize("lag", [0, 2, 8], ids=lambda lag: f"lag {lag}")
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize(
    "at", [BATCHES - 1, 2 * BATCHES - 1, 2 * BATCHES], ids=["epoch 0 ends", "the run ends", "in epoch 1"]
)
def test_no_checkpoint_holds_it(trainer, small, samples, tmp_path, at, what, lag) -> None:
    """On a GPU the check lags, which no checkpoint may notice: neither the last, nor the best, nor one on the error."""
    epochs = 2 if at == 2 * BATCHES - 1 else 3
    checkpoints = [
        ModelCheckpoint(tmp_path / "best", monitor="loss/val", save_top_k=-1),
        ModelCheckpoint(tmp_path / "last", every_n_train_steps=1, save_top_k=-1, save_on_exception=lag == 0),
        ModelCheckpoint(tmp_path / "end", save_on_train_epoch_end=True, save_top_k=-1, every_n_epochs=1),
    ]
    run = trainer(FiniteLoss(lag), Breaks(what, at=at), *checkpoints, max_epochs=epochs, enable_checkpointing=True)
    line = stopped(run, small(), samples(), samples(12, seed=1))
    assert f"step {at} " in line
    written = sorted(tmp_path.rglob("*.ckpt"))
    assert all(is_finite(path) for path in written)
    steps = {torch.load(path, weights_only=True)["global_step"] for path in written}
    assert max(steps) == at  # of the state before the bad step


@pytest.mark.parametrize("lag", [1, 3])
def test_a_lagging_check_stops_as_many_steps_later(trainer, small, samples, lag) -> None:
    breaks = Breaks("loss", at=4)
    line = stopped(trainer(FiniteLoss(lag), breaks, max_epochs=1), small(), samples(300))
    assert "step 4 (lr/SGD 0.1), batch 4; no checkpoint was written since." in line
    assert breaks.count == 4 + lag


def test_files_of_weights_alone_let_nothing_lag(trainer, small, samples, tmp_path) -> None:
    """Lightning asks no callback before it writes them."""
    weights = ModelCheckpoint(tmp_path, save_weights_only=True, every_n_train_steps=1, save_top_k=-1)
    breaks = Breaks("loss", at=4)
    stopped(trainer(FiniteLoss(3), breaks, weights, max_epochs=1, enable_checkpointing=True), small(), samples(300))
    assert breaks.count == 4
    assert all(is_finite(path) for path in tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_norm_is_put_back(trainer, samples, accumulate) -> None:
    """An infinite input spoils the running statistics in the forward pass, before anything can be checked."""
    loader = samples(40)
    loader.dataset.tensors[0][37, 2] = INF
    module, breaks = WithBatchNorm(), Breaks("nothing", at=-1)
    line = stopped(trainer(FiniteLoss(), breaks, accumulate_grad_batches=accumulate, max_epochs=1), module, loader)
    assert ", batch 3, sample 7 of it; the weights are as before this step. These values are not finite: fix" in line
    for name, value in breaks.before[4 - accumulate].items():
        assert torch.equal(module.state_dict()[name], value), name


def test_a_scaler_meets_infinite_gradients_by_design(trainer, small, samples) -> None:
    """Under 16-mixed the scaler skips such a step; a loss that is not finite stops the run."""

    def scaled(breaks: Breaks) -> Trainer:
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        return trainer(FiniteLoss(), breaks, plugins=[precision], max_epochs=2)

    module = small()
    scaled(Breaks("gradient", at=1, value=INF)).fit(module, samples())
    assert module.layer.weight.isfinite().all()
    assert "training loss became nan in epoch 0, step 1" in stopped(scaled(Breaks("loss", at=1)), small(), samples())


@pytest.mark.parametrize("lr", [1e38, 1e30], ids=["infinite", "too large for float32's norm"])
def test_weights_that_finite_gradients_overflow_are_not_saved(trainer, samples, tmp_path, lr) -> None:
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    run = trainer(FiniteLoss(), checkpoint, max_epochs=1, enable_checkpointing=True)
    line = stopped(run, WithBatchNorm(lr), samples())
    assert "weights became NaN or infinite by step 0, in epoch 0: body." in line
    assert not list(tmp_path.glob("*.ckpt"))


def test_statistics_that_overflow_are_not_saved_after_a_validation(trainer, samples, tmp_path) -> None:
    """The variance of inputs of 1e25 is infinite, and batch norm divides by it to 0: no loss or gradient shows it."""
    module = WithBatchNorm()
    module.body = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    loader = samples()
    loader.dataset.tensors[0][:, 1] *= 1e25
    best = ModelCheckpoint(tmp_path, monitor="val")
    run = trainer(FiniteLoss(), best, max_epochs=1, num_sanity_val_steps=0, enable_checkpointing=True)
    assert "body.0.running_var; no checkpoint holds them" in stopped(run, module, loader, samples())
    assert not list(tmp_path.glob("*.ckpt"))


def test_validation_does_not_pass_in_silence(trainer, small, samples, tmp_path) -> None:
    """Neither where the step returns a loss or logits, nor where it only logs a metric that a callback monitors."""
    bad = samples(25, seed=1)
    bad.dataset.tensors[0][13, 0] = NAN
    best = ModelCheckpoint(tmp_path, monitor="loss/val")
    run = trainer(FiniteLoss(), best, max_epochs=1, num_sanity_val_steps=0, enable_checkpointing=True)
    line = stopped(run, small(), samples(), bad)
    assert "validation loss or logits became NaN or infinite in epoch 0, batch 1, sample 3 of it. Lower" in line
    assert not list(tmp_path.glob("*.ckpt"))
    best = ModelCheckpoint(tmp_path, monitor="val")
    run = trainer(FiniteLoss(), best, max_epochs=1, num_sanity_val_steps=0, enable_checkpointing=True)
    assert stopped(run, WithBatchNorm(), samples(), bad).startswith("val became nan in epoch 0.")
    assert not list(tmp_path.glob("*.ckpt"))


def test_the_samples_are_named(trainer) -> None:
    """By the names of the data module whose images the network saw, augmentation and order included."""

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.seen.append(batch)
            loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
            return loss * (NAN if self.current_epoch == 1 and batch_idx == 5 else 1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module, data = Net(), DigitsDataModule(batch_size=3, seed=4)
    line = stopped(trainer(FiniteLoss(), max_epochs=2, limit_train_batches=7, limit_val_batches=0), module, data)
    split = data.samples("train")
    every = torch.stack([data.preprocessing.normalize(data.image("train", i)[None])[0] for i in range(len(split))])
    names = [split.names[int((every - image).abs().flatten(1).sum(1).argmin())] for image in module.seen[-1][0]]
    assert f"step 12 (lr/SGD 0.01), batch 5 ({', '.join(names)}); the weights" in line


@pytest.mark.filterwarnings("ignore:.*fork", "ignore:.*sync_dist=True")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its processes by fork")
def test_all_devices_stop_in_the_same_step_and_report_the_bad_batch(trainer, small, samples) -> None:
    """The second process's loss is NaN: averaged, so are the gradients of the first, which reports that loss, too."""
    module = small()
    plain = module.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        loss = plain(batch, batch_idx)["loss"]
        return loss * (NAN if (module.global_rank, module.global_step) == (1, 1) else 1)

    module.training_step = training_step

    class Noting(FiniteLoss):
        def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
            try:
                super().on_before_optimizer_step(trainer, *args)
            except NotFiniteError as error:
                Path(trainer.default_root_dir, f"{trainer.global_rank}.txt").write_text(str(error))
                torch.distributed.barrier()  # the process that ends first ends the other
                raise

    run = trainer(Noting(), devices=2, strategy="ddp_fork", max_epochs=1)
    with pytest.raises(Exception, match="training loss became nan in epoch 0, step 1"):
        run.fit(module, samples(80))
    first, second = (Path(run.default_root_dir, f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("the training loss became nan in epoch 0, step 1")


def test_a_finite_run_is_not_changed(trainer, small, samples) -> None:
    watched, lagging, plain = small(), small(), small()
    trainer(FiniteLoss(), max_epochs=2).fit(watched, samples())
    trainer(FiniteLoss(2), max_epochs=2).fit(lagging, samples())
    trainer(max_epochs=2).fit(plain, samples())
    assert torch.equal(watched.layer.weight, plain.layer.weight)
    assert torch.equal(lagging.layer.weight, plain.layer.weight)


def test_sparse_gradients_half_precision_and_infinite_buffers_pass(trainer) -> None:
    class Odd(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=True)
            self.large = nn.Parameter(torch.full((4,), 60_000.0, dtype=torch.float16))  # whose norm float16 cannot hold
            self.register_buffer("mask", torch.tensor([0.0, -INF]))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.table(batch[0]).square().mean() + self.large.float().mean() * 1e-6

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    run = trainer(FiniteLoss(), max_epochs=1)
    run.fit(Odd(), DataLoader(TensorDataset(torch.arange(5)), batch_size=2))
    assert run.global_step == 3


def test_the_check_costs_less_than_a_hundredth_of_a_step() -> None:
    """Measured under a Trainer, with other processes on the machine: 0.35 % of the steps' time."""
    network, images = MnistCNN(num_classes=10), torch.rand(64, 1, 28, 28)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    run: Any = SimpleNamespace(
        accumulate_grad_batches=1, checkpoint_callbacks=[], precision_plugin=None, current_epoch=0, global_step=0
    )
    callback, module = FiniteLoss(), SimpleNamespace(device=torch.device("cpu"), named_modules=network.named_modules)
    steps, checks = [], []
    for batch_idx in range(5):
        start = time.perf_counter()
        loss = network(images).square().mean()
        loss.backward()
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
        callback.on_train_batch_start(run, module, None, batch_idx)
        callback.on_before_backward(run, module, loss)
        callback.on_before_optimizer_step(run, module, optimizer)
        checks.append(time.perf_counter() - start)
    assert math.isfinite(loss.item())
    assert min(checks) < 0.01 * min(steps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_no_step_waits_and_no_checkpoint_holds_it(trainer, small, samples, tmp_path) -> None:
    class Strict(FiniteLoss):
        def on_before_optimizer_step(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")
            super().on_before_optimizer_step(*args)
            torch.cuda.set_sync_debug_mode("default")

    last = ModelCheckpoint(tmp_path, save_top_k=-1, save_on_train_epoch_end=True)
    run = trainer(Strict(), Breaks("loss", at=4), last, max_epochs=5, accelerator="gpu", enable_checkpointing=True)
    assert "became nan in epoch 1, step 4" in stopped(run, small(), samples())
    assert [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("*.ckpt")] == [BATCHES]
