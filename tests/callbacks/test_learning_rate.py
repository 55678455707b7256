"""Learning rates: the right value at the right step, as often as asked."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from litlens.callbacks.learning_rate import LearningRate, learning_rates

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `val_dataloader`")


class Memory(CSVLogger):
    """Keeps (step, metrics) of what has learning rates."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        if any(name.startswith("lr/") for name in metrics):
            self.seen.append((step, dict(metrics)))
        super().log_metrics(metrics, step)


def stepped(classifier):
    """An optimizer whose rate halves after every step."""
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.8)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    classifier.configure_optimizers = lambda: {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
    }
    return classifier


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3]), (50, []), (0, [])])
def test_the_rate_of_each_step_that_is_logged(trainer, small, samples, tmp_path, every, steps) -> None:
    logger = Memory(tmp_path)
    run = trainer(LearningRate(), logger=logger, max_epochs=2, log_every_n_steps=every)
    run.fit(stepped(small()), samples())
    assert logger.seen == [(step, {"lr/SGD": 0.8 * 0.5**step}) for step in steps]


def test_accumulated_batches_count_once(trainer, small, samples, tmp_path) -> None:
    logger = Memory(tmp_path)
    run = trainer(LearningRate(), logger=logger, max_epochs=2, log_every_n_steps=1, accumulate_grad_batches=2)
    run.fit(stepped(small()), samples())
    assert [step for step, _ in logger.seen] == [0, 1, 2, 3]


def test_names_of_groups_and_of_several_optimizers() -> None:
    first, second, third = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    named = torch.optim.AdamW(
        [
            {"params": [first], "name": "head", "lr": 0.1},
            {"params": [second], "name": "backbone", "lr": 0.01},
            {"params": [third], "lr": 0.001},
        ]
    )
    assert learning_rates([named]) == {"lr/head": 0.1, "lr/backbone": 0.01, "lr/AdamW": 0.001}
    plain = [torch.optim.SGD([first], lr=rate) for rate in (0.1, 0.2, 0.3)]
    assert learning_rates(plain) == {"lr/SGD": 0.1, "lr/SGD-1": 0.2, "lr/SGD-2": 0.3}


def test_a_rate_in_a_tensor_is_a_number() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5))
    assert learning_rates([optimizer]) == {"lr/SGD": 0.5}
