"""A loss that is not finite ends the run before it reaches a weight, in one line."""

import timeit
from types import SimpleNamespace

import pytest
import torch

from litlens.callbacks.steps import FiniteLoss
from litlens.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `val_dataloader`")


def breaking(classifier, *, at: int, value: float):
    """Makes the loss of one training batch of the run something else, and keeps each step's weights."""
    step, seen, weights = classifier.training_step, [], []

    def broken_step(batch, batch_idx):
        seen.append(batch_idx)
        weights.append(classifier.layer.weight.detach().clone())
        outputs = step(batch, batch_idx)
        return outputs["loss"] * value if len(seen) == at + 1 else outputs["loss"]

    classifier.training_step = broken_step
    return weights


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_run_ends_in_one_line_and_the_step_is_not_taken(trainer, small, samples, value, accumulate) -> None:
    classifier = small()
    weights = breaking(classifier, at=4, value=value)
    run = trainer(FiniteLoss(), max_epochs=5, accumulate_grad_batches=accumulate)
    with pytest.raises(UserError) as raised:
        run.fit(classifier, samples())
    text = str(raised.value)
    assert "\n" not in text
    assert f"became {value} in epoch 1, step {4 // accumulate} (lr/SGD 0.1)" in text
    assert "Lower the learning rate" in text
    assert len(weights) == 5
    assert torch.equal(classifier.layer.weight, weights[4])
    assert torch.isfinite(classifier.layer.weight).all()


def test_a_finite_run_is_not_changed(trainer, small, samples) -> None:
    watched, plain = small(), small()
    trainer(FiniteLoss(), max_epochs=2).fit(watched, samples())
    trainer(max_epochs=2).fit(plain, samples())
    assert torch.equal(watched.layer.weight, plain.layer.weight)


def test_the_check_costs_next_to_nothing() -> None:
    callback, loss = FiniteLoss(), torch.tensor(0.5, requires_grad=True)
    run, classifier = SimpleNamespace(), SimpleNamespace()
    seconds = min(timeit.repeat(lambda: callback.on_before_backward(run, classifier, loss), number=10_000, repeat=5))
    assert seconds / 10_000 < 5e-6  # 0.3 µs measured; a step takes a thousand times as long


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_step_is_not_taken_either(trainer, small, samples) -> None:
    classifier = small()
    weights = breaking(classifier, at=4, value=float("nan"))
    run = trainer(FiniteLoss(), max_epochs=5, accelerator="gpu")
    with pytest.raises(UserError, match="became nan in epoch 1, step 4"):
        run.fit(classifier, samples())
    assert torch.equal(classifier.layer.weight.cpu(), weights[4].cpu())
