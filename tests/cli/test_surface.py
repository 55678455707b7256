"""The options of the command line: changing them is a decision, not an accident."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from litlens.cli.evaluate import command_parser, run_parser
from litlens.cli.main import _EVALUATE_HELP, _TRAIN_HELP, train
from litlens.cli.parser import TrainingCommand

ROOT = Path(__file__).resolve().parents[2]


def test_the_options_of_training() -> None:
    command = TrainingCommand([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", "--inspect"])
    options = {option for action in command.parser._actions for option in action.option_strings}
    # jsonargparse adds --print_shtab where the package shtab happens to be installed.
    ours = {option for option in options - {"--print_shtab"} if not option.startswith("--trainer.")}
    assert ours == {
        *("-h", "--help", "-c", "--config", "--print_config"),
        *("--seed_everything", "--inspect", "--checkpoint_minutes", "--folds", "--resume", "--search", "--trials"),
        *("--data", "--data.help", "--model", "--model.help"),
        *("--early_stopping", "--early_stopping.help", "--model_checkpoint", "--model_checkpoint.help"),
        *("--trainer",),
    }


def test_the_options_of_evaluation() -> None:
    actions = [*command_parser()._actions, *run_parser()._actions]
    options = {option for action in actions for option in action.option_strings} - {"--print_shtab"}
    assert options == {
        *("--ckpt_path", "--output", "--images", "--robustness", "--trust", "--split", "--export"),
        *("-h", "--help", "--config", "--print_config", "--accelerator", "--devices", "--data", "--data.help"),
    }


def test_the_help_is_one_screen_and_names_the_options() -> None:
    for text in (_TRAIN_HELP, _EVALUATE_HELP):
        lines = text.splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
    assert set(re.findall(r"--\w+", _TRAIN_HELP)) >= {"--config", "--devices", "--folds", "--inspect", "--resume"}
    assert {action.option_strings[0] for action in command_parser()._actions} <= set(
        re.findall(r"--\w+", _EVALUATE_HELP)
    )


@pytest.mark.parametrize("given", [["--devices", "2"], ["--devices=2"]])
def test_devices_is_short_for_the_trainers(given: list[str]) -> None:
    command = TrainingCommand([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", "--inspect", *given])
    assert str(command.config.trainer.devices) == "2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.help", "MNISTDataModule"], ["validation", "The folder of data sets"]),
        (
            ["--model.help", "ImageClassifier"],
            ["label_smoothing", "class_weights", "subclasses: litlens."],
        ),
        (["--trainer.help"], ["--trainer.max_epochs", "--trainer.gradient_clip_val", "litlens.callbacks.GradCam"]),
        (["--data.help"], ["FolderDataModule", "--data.help NAME"]),
        (["--model.help"], ["TransferClassifier"]),
        (["--model.network.help"], ["MnistCNN", "TransferNetwork"]),
        (["--model.network.help", "MnistCNN"], ["inner_activation"]),
    ],
)
def test_a_class_tells_its_options(options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(options)
    assert stopped.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "torch.nn.Linear" not in printed
    for word in words:
        assert word in printed


def test_the_callbacks_that_are_on_by_default() -> None:
    command = TrainingCommand([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", "--inspect"])
    chosen = command.parser.get_default("trainer.callbacks")
    assert [callback["class_path"].rpartition(".")[2] for callback in chosen] == [
        *("LearningRate", "LearningCurves", "ConfusionMatrix", "PerClassMetrics"),
        *("PrecisionRecallCurves", "WrongSamples", "PredictionGrid", "GradCam", "FeatureMaps", "ModelGraph"),
        "HyperParameters",
    ]


def test_the_version_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    train(["--version"])
    assert f"torch {version('torch')}" in capsys.readouterr().out
