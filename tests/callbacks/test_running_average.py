"""The running average: against one kept by hand, before it begins, in the checkpoint, and on resume."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from litlens.callbacks.running_average import EpochAverage, RunningAverage
from litlens.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
DECAY = 0.5


class Weights(Callback):
    """Notes the weights after each step, and those that are validated and tested."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []
        self.tested: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.trained.append(pl_module.layer.weight.detach().clone())

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.validated.append(pl_module.layer.weight.detach().clone())

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.tested.append(pl_module.layer.weight.detach().clone())


def by_hand(trained: list[torch.Tensor], start: int) -> torch.Tensor:
    average = trained[start]
    for weights in trained[start + 1 :]:
        average = DECAY * average + (1 - DECAY) * weights
    return average


def saved(path: Path) -> torch.Tensor:
    weights: torch.Tensor = torch.load(path, weights_only=True)["state_dict"]["layer.weight"]
    return weights


def test_until_it_begins_the_weights_in_training_are_validated_saved_and_tested(
    trainer, small, samples, tmp_path: Path
) -> None:
    seen = Weights()
    average = RunningAverage(decay=DECAY, update_starting_at_step=100)
    run = trainer(seen, average, ModelCheckpoint(tmp_path), max_epochs=1, enable_checkpointing=True)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    assert torch.equal(seen.validated[-1], seen.trained[-1])
    assert torch.equal(classifier.layer.weight, seen.trained[-1])
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(saved(path), seen.trained[-1])
    run.test(classifier, samples(size=10), ckpt_path=path, weights_only=True, verbose=False)
    assert torch.equal(seen.tested[-1], seen.trained[-1])


def test_the_average_is_validated_saved_and_tested(trainer, small, samples, tmp_path: Path) -> None:
    seen = Weights()
    average = RunningAverage(decay=DECAY, update_starting_at_step=2)
    run = trainer(seen, average, ModelCheckpoint(tmp_path), max_epochs=2, enable_checkpointing=True)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    expected = by_hand(seen.trained, start=2)
    assert not torch.equal(expected, seen.trained[-1])
    torch.testing.assert_close(seen.validated[-1], expected)
    torch.testing.assert_close(classifier.layer.weight.detach(), expected)
    (path,) = tmp_path.glob("*.ckpt")
    run.test(classifier, samples(size=10), ckpt_path=path, weights_only=True, verbose=False)
    torch.testing.assert_close(seen.tested[-1], expected)


def test_after_the_fit_the_weights_that_are_loaded_are_validated_and_saved(
    trainer, small, samples, tmp_path: Path
) -> None:
    seen = Weights()
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = trainer(seen, RunningAverage(decay=DECAY), kept, max_epochs=2, enable_checkpointing=True)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    torch.testing.assert_close(saved(tmp_path / "epoch=1.ckpt"), by_hand(seen.trained, start=0))

    first = by_hand(seen.trained[:3], start=0)
    loaded = {"ckpt_path": tmp_path / "epoch=0.ckpt", "weights_only": True}
    run.validate(classifier, samples(size=10), verbose=False, **loaded)
    torch.testing.assert_close(seen.validated[-1], first)
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.testing.assert_close(saved(tmp_path / "x.ckpt"), first)


def test_a_second_fit_of_the_same_trainer_starts_a_new_average(trainer, small, samples) -> None:
    seen = Weights()
    run = trainer(seen, RunningAverage(decay=DECAY), max_epochs=1)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    run.fit_loop.max_epochs = 2
    run.fit(classifier, samples(), samples(size=10))
    expected = by_hand(seen.trained, start=3)
    torch.testing.assert_close(seen.validated[-1], expected)
    torch.testing.assert_close(classifier.layer.weight.detach(), expected)


@pytest.mark.parametrize("hook", ["on_validation_batch_end", "on_train_batch_end"])
def test_after_a_fit_that_raises_the_module_has_the_weights_in_training_and_no_average(
    trainer, small, samples, tmp_path: Path, hook: str
) -> None:
    seen, calls = Weights(), []

    class Fails(Callback):
        pass

    def fail(*args: object) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("interrupted")

    setattr(Fails, hook, fail)
    run = trainer(seen, RunningAverage(decay=DECAY), Fails(), max_epochs=9, num_sanity_val_steps=0)
    classifier = small()
    with pytest.raises(RuntimeError, match="interrupted"):
        run.fit(classifier, samples(), samples(size=10))
    assert torch.equal(classifier.layer.weight, seen.trained[-1])
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(saved(tmp_path / "x.ckpt"), seen.trained[-1])


@pytest.mark.parametrize("start", [1, 4])  # before the interruption, which is after three steps, and after it
def test_a_resumed_run_ends_as_if_it_had_not_stopped(trainer, small, samples, tmp_path: Path, start: int) -> None:
    def fit(epochs: int, ckpt_path: Path | None = None) -> torch.Tensor:
        average = RunningAverage(decay=DECAY, update_starting_at_step=start)
        kept = ModelCheckpoint(tmp_path, save_last=True)
        run = trainer(average, kept, max_epochs=epochs, enable_checkpointing=True)
        classifier = small()
        run.fit(classifier, samples(), samples(size=10), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        return classifier.layer.weight.detach()

    fit(1)
    resumed = fit(3, tmp_path / "last.ckpt")
    assert torch.equal(resumed, fit(3))


def test_the_mean_of_the_last_epochs_is_validated_and_saved(trainer, small, samples, tmp_path: Path) -> None:
    seen = Weights()
    run = trainer(seen, EpochAverage(start=0.5), ModelCheckpoint(tmp_path), max_epochs=5, enable_checkpointing=True)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    ends = seen.trained[2::3]  # of the five epochs of three steps
    assert torch.equal(seen.validated[2], ends[1])
    for epoch in (2, 3, 4):
        torch.testing.assert_close(seen.validated[1 + epoch], torch.stack(ends[2 : epoch + 1]).mean(dim=0))
    torch.testing.assert_close(classifier.layer.weight.detach(), seen.validated[-1])
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(saved(path), seen.validated[-1])


@pytest.mark.parametrize("average", [RunningAverage(decay=DECAY), EpochAverage(start=0.0)])
def test_the_average_lies_on_the_device_of_the_training(average: RunningAverage | EpochAverage, small) -> None:
    """As on a GPU, which Lightning moves the module to after `setup`."""
    gpu = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")), max_epochs=1)
    average.setup(gpu, small(), "fit")
    assert {value.device.type for value in average._average_model.state_dict().values()} == {"meta"}


def test_counters_of_batch_norm_are_averaged_as_on_a_gpu(
    trainer, small, samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, torch averages many tensors at once, which fails on integers."""
    monkeypatch.setattr("torch.optim.swa_utils._get_foreach_kernels_supported_devices", lambda: ["cpu"])
    classifier = small()
    classifier.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(4), classifier.layer)
    trainer(EpochAverage(start=0.0), max_epochs=3).fit(classifier, samples(size=40), samples(size=10))
    assert classifier.layer[0].num_batches_tracked == 8  # the mean of 4, 8 and 12


def test_an_average_of_a_share_of_the_epochs_needs_their_number(trainer, small, samples) -> None:
    with pytest.raises(UserError, match=r"give trainer\.max_epochs"):
        trainer(EpochAverage(), max_epochs=-1).fit(small(), samples(), samples())
    with pytest.raises(UserError, match="from 0 to below 1"):
        EpochAverage(start=1)
