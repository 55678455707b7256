"""The running average: against one kept by hand, before it begins, in the checkpoint, and on resume."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from litlens.callbacks.running_average import RunningAverage

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


def test_until_it_begins_the_weights_in_training_are_validated_saved_and_tested(
    trainer, small, samples, tmp_path: Path
) -> None:
    seen = Weights()
    average = RunningAverage(decay=DECAY, update_starting_at_step=100)
    run = trainer(seen, average, ModelCheckpoint(tmp_path), max_epochs=1, enable_checkpointing=True)
    classifier = small()
    run.fit(classifier, samples(), samples(size=10))
    assert not average.begun
    assert torch.equal(seen.validated[-1], seen.trained[-1])
    assert torch.equal(classifier.layer.weight, seen.trained[-1])
    (path,) = tmp_path.glob("*.ckpt")
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["layer.weight"], seen.trained[-1])


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
