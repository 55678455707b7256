"""What a user gets wrong is told in one line that names the place, the key and the nearest right name."""

from pathlib import Path

import pytest

from litlens.cli.parser import TrainingCommand
from litlens.errors import UserError

GOOD = """\
data: {class_path: DigitsDataModule}
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: LeNet5}
"""


def mistake(tmp_path: Path, text: str, *options: str) -> str:
    config = tmp_path / "experiment.yaml"
    config.write_text(text)
    with pytest.raises(UserError) as caught:
        TrainingCommand(["--config", str(config), "--inspect", *options])
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(config), "FILE")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("data: ", "dta: ", ["FILE, line 1", "'dta'", "data"]),
        (
            "DigitsDataModule",
            "DigitDataModule",
            ["FILE, line 1", "did you mean 'DigitsDataModule'"],
        ),
        ("LeNet5", "LeNet", ["FILE, line 5", "model.network", "'LeNet'", "did you mean 'LeNet5'"]),
        ("LeNet5}", "LeNet5, init_args: {dropuot: 1}}", ["FILE, line 5", "LeNet5 has no 'dropuot'"]),
        ("DigitsDataModule}", "DigitsDataModule, init_args: {batch_siz: 4}}", ["did you mean 'batch_size'"]),
        ("DigitsDataModule}", "DigitsDataModule, init_args: {batch_size: x}}", ["FILE, line 1", "expected int", "'x'"]),
        ("model:\n", "trainer: {max_epoch: 3}\nmodel:\n", ["FILE, line 2", "trainer", "did you mean 'max_epochs'"]),
        ("model:\n", "trainer: {max_epochs: x}\nmodel:\n", ["FILE, line 2", "trainer.max_epochs", "expected int"]),
        ("model:\n", "early_stopping: {patienc: 3}\nmodel:\n", ["FILE, line 2", "did you mean 'patience'"]),
        ("LeNet5", "collections.Counter", ["FILE, line 5", "collections.Counter"]),
        ("{class_path: LeNet5}", "{class_path: [", ["FILE, line 6: not YAML"]),
        ("data: {class_path: DigitsDataModule}", "data: {a: b: c}", ["FILE, line 1: not YAML: expected ','"]),
    ],
)
def test_in_a_config(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    message = mistake(tmp_path, GOOD.replace(old, new))
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--trainer.max_epoch", "3"], ["command line", "did you mean 'trainer.max_epochs'"]),
        (["--model.optimizer=SDG"], ["model.optimizer", "did you mean 'SGD'"]),
        (["--model.optimizer=SGD", "--model.optimizer.lrr=1"], ["command line", "SGD has no 'lrr'", "'lr'"]),
        (["--data.batch_siz=3"], ["command line", "did you mean 'batch_size'"]),
        (["--data.batch_size=many"], ["command line", "expected int", "'many'"]),
        (["--devcies=2"], ["command line", "--devcies", "did you mean 'devices'"]),
        (["--model.loss=crossentropy"], ["model.loss", "'mse'", "did you mean 'cross_entropy'"]),
        (["--model.network=MnistCNN", "--model.network.activation=rleu"], ["activation", "did you mean 'relu'"]),
        (["--model.class_weights=balancd"], ["class_weights", "list or 'balanced'", "did you mean 'balanced'"]),
        (["--model.optimizer=SGD", "--model.optimizer.lr=fast"], ["model.optimizer.lr", "expected float", "'fast'"]),
        (["--model.lr_scheduler=ReduceLROnPlateau"], ["torch.optim.lr_scheduler.ReduceLROnPlateau or lightning"]),
        (["--config", "{trainer: {max_epoch: 1}}"], ["trainer", "did you mean 'max_epochs'"]),
        (["--config", "nowhere.yaml"], ["no file nowhere.yaml"]),
        (["--data", "MNIST"], ["data: there is no class 'MNIST'; choose from CatDogDataModule, DigitsDataModule"]),
        (["words"], ["command line", "'words' stands alone"]),
    ],
)
def test_on_the_command_line(tmp_path: Path, options: list[str], expected: list[str]) -> None:
    message = mistake(tmp_path, GOOD, *options)
    for part in expected:
        assert part in message
