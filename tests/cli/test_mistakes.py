"""A user's mistake is reported in one line: the file and line, the key, what is wrong, and the nearest right name."""

from pathlib import Path

import pytest

from litlens.cli.command_line import read_command_line
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
        ("data: ", "data:\n\tclass_path: ", ["FILE, line 2: not YAML"]),
        (GOOD, "", ["FILE: a config is a mapping"]),
        (GOOD, "- data\n", ["FILE: a config is a mapping"]),
        (GOOD.partition("\n")[2], "", ["model is missing"]),
        (
            "model:\n",
            "base: {a: 1}\nmodel:\n",
            ["FILE, line 2", "'base'; choose from checkpoint_minutes, data, early_stopping"],
        ),
        (
            "  class_path: Im",
            "  clas_path: Im",
            ["FILE, line 5", "model: class_path has to name", "TransferClassifier"],
        ),
        ("init_args", "init_arg", ["FILE, line 5", "ImageClassifier has no 'init_arg'; did you mean 'init_args'?"]),
        ("network: {class_path: LeNet5}", "loss: mse", ["FILE, line 5", "model: ImageClassifier needs network"]),
        ("{class_path: LeNet5}", "[LeNet5]", ["FILE, line 5", "model.network: class_path has to name", "LeNet5, MLP"]),
        ("LeNet5", "DigitsDataModule", ["FILE, line 5", "no class 'DigitsDataModule'; choose from BottleneckCNN"]),
        ("LeNet5", "torchvision.models.resnet81", ["FILE, line 5", "torchvision.models has no resnet81", "'resnet18'"]),
        (
            "LeNet5",
            "litlens.DigitsDataModule",
            ["FILE, line 5", "model.network: litlens.DigitsDataModule is not a sub"],
        ),
        ("Digits", "litlns.Digits", ["FILE, line 1", "data: litlns.DigitsDataModule: there is no module litlns"]),
        ("model:\n", "trainer:\n  callbacks:\n  - GradCa\nmodel:\n", ["FILE, line 3", "callbacks", "'GradCam'"]),
        (
            "model:\n",
            "trainer:\n  callbacks+:\n  - class_path: GradCam\n    init_args: {sampels: 3}\nmodel:\n",
            ["FILE, line 5", "trainer.callbacks: GradCam has no 'sampels'; did you mean 'samples'?"],
        ),
        ("model:\n", "trainer: {logger: Tensorboard}\nmodel:\n", ["FILE, line 2", "'TensorBoardLogger'"]),
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
        (["--data.batch_size=null"], ["command line", "data.batch_size: expected int, not null"]),
        (["--model.label_smoothing=null"], ["command line", "model.label_smoothing: expected float, not null"]),
        (["--data.batch_size=many"], ["command line", "expected int", "'many'"]),
        (["--trials=0"], ["command line: trials: expected a whole number above 0, not '0'"]),
        (["--checkpoint_minutes=-1"], ["checkpoint_minutes: expected a number of 0 or more, not '-1'"]),
        (["--devcies=2"], ["command line", "--devcies", "did you mean 'devices'"]),
        (["--model.loss=crossentropy"], ["model.loss", "'mse'", "did you mean 'cross_entropy'"]),
        (["--model.network=MnistCNN", "--model.network.activation=rleu"], ["activation", "did you mean 'relu'"]),
        (["--model.class_weights=balancd"], ["class_weights", "list or dict or 'balanced'", "did you mean 'balanced'"]),
        (["--model.optimizer=SGD", "--model.optimizer.lr=fast"], ["model.optimizer.lr", "expected float", "'fast'"]),
        (["--model.lr_scheduler=ReduceLROnPlateau"], ["torch.optim.lr_scheduler.ReduceLROnPlateau or lightning"]),
        (["--config", "{trainer: {max_epoch: 1}}"], ["trainer", "did you mean 'max_epochs'"]),
        (["--config", "nowhere.yaml"], ["no file nowhere.yaml"]),
        (["--data", "MNIST"], ["data: there is no class 'MNIST'; choose from CatDogDataModule, DigitsDataModule"]),
        (["words"], ["command line", "'words' is not an option: to name a config, write --config words"]),
        (["--data.batch_size"], ["command line", "--data.batch_size needs a value"]),
        (["--resume"], ["command line", "--resume needs a value"]),
        (["--resume=nowhere"], ["--resume: there is no nowhere/config.yaml"]),
        (["--config"], ["--config: '' is neither a file nor YAML"]),
        (["--config", "{trainer: {max_epochs: 1}"], ["--config: '{trainer", "neither a file nor YAML"]),
        (["--config", "."], ["--config: . cannot be read"]),
        (["--trainer.max_epochs.x=3"], ["command line", "trainer.max_epochs", "int or 'auto', not an option 'x'"]),
        (["--data.help=Digit"], ["command line: data: there is no class 'Digit'"]),
        (["--model.network.help=MnistCN"], ["command line: model.network: there", "did you mean 'MnistCNN'?"]),
        (["--model.optimizer=SDG"], ["command line: model.optimizer"]),
    ],
)
def test_on_the_command_line(tmp_path: Path, options: list[str], expected: list[str]) -> None:
    message = mistake(tmp_path, GOOD, *options)
    for part in expected:
        assert part in message


def test_the_later_of_two_files_is_named(tmp_path: Path) -> None:
    """Both give the batch size; the line is that of the overlay, after a comment."""
    (tmp_path / "overlay.yaml").write_text("data:\n  # smaller\n  init_args: {batch_size: few}\n")
    good = GOOD.replace("DigitsDataModule}", "DigitsDataModule, init_args: {batch_size: 8}}")
    line = mistake(tmp_path, good, "--config", str(tmp_path / "overlay.yaml"))
    assert line == f"{tmp_path / 'overlay.yaml'}, line 3: data.batch_size: expected int, not 'few'"


def test_nothing_to_do_without_a_config() -> None:
    for options in (["--inspect"], ["--data.batch_size=3"]):
        with pytest.raises(UserError, match="nothing to do without a config: --config FILE; choose from configs/"):
            TrainingCommand(options)


def test_the_command_line_is_read_in_its_order(tmp_path: Path) -> None:
    """Keys have no `class_path` and `init_args`; a list is one value, and its items' options are values as well."""
    config = tmp_path / "a.yaml"
    config.write_text(
        "x: &x {lr: 1}\ndata:\n  class_path: D\n  init_args:\n    <<: *x\n    sizes: [1, 2]\n"
        "callbacks+:\n- class_path: C\n  init_args: {n: 1}\n"
    )
    line = read_command_line(["--data.lr=2", "--flag", "--config", str(config), "-c", "{a: {b: null}}", "--n", "-1"])
    assert line.files == [config]
    assert [(given.key, given.value, given.where.removeprefix(f"{config}, ")) for given in line.given] == [
        ("data.lr", 2, "command line"),
        ("flag", "", "command line"),
        ("x.lr", 1, "line 1"),
        ("data", "D", "line 3"),
        ("data.lr", 1, "line 1"),
        ("data.sizes", [1, 2], "line 6"),
        ("callbacks", [{"class_path": "C", "init_args": {"n": 1}}], "line 7"),
        ("callbacks", "C", "line 8"),
        ("callbacks.n", 1, "line 9"),
        ("a.b", None, "command line"),
        ("n", -1, "command line"),
    ]
    assert line.last("data.lr") == 1
    assert line.where("data.sizes") == f"{config}, line 6: "
    assert line.where("nothing") == ""
