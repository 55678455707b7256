"""Every command and every block of the README runs, on stand-ins for the data and weights that it names."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import litlens
from litlens.cli.main import evaluate, train

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FEW = [f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val")]
FEW += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("console") for line in block.splitlines()]


@pytest.fixture
def clone(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a clone's configs and examples, and small data, weights and images."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("data", "weights"):
        (tmp_path / name).symlink_to(stand_ins / name)
    (tmp_path / "new_images").mkdir()
    Image.new("L", (20, 30), 200).save(tmp_path / "new_images" / "gray.png")
    Image.new("RGB", (40, 30), (200, 100, 0)).save(tmp_path / "image.jpg")
    monkeypatch.setenv("TORCH_HOME", str(stand_ins / "torch"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_commands_are_make_quickstart_and_make_test_and_then_tensorboard() -> None:
    assert COMMANDS[:3] == ["make quickstart", "make test", "make tensorboard"]
    for command in COMMANDS[:3]:
        done = subprocess.run(["make", "--dry-run", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        assert done.stdout
    assert re.search(r"^tensorboard\b", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)


def test_the_readme_is_three_screens() -> None:
    assert len(README.splitlines()) <= 150


def test_the_requirements_have_what_an_overlay_needs() -> None:
    required = {re.split(r"\W", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert "wandb" in required


def test_the_python_commands_and_what_is_loaded_from_their_run(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order: a later command finds the run of an earlier one."""
    train(["--config", "configs/digits_cnn.yaml", *FEW])  # make quickstart, but shorter
    (results,) = blocks("text")
    assert shape_of(results) in shape_of(capsys.readouterr().out)
    for command in COMMANDS:
        if command.split()[0] == "make":
            continue
        python, script, *options = shlex.split(latest(command, clone).replace("data/flowers", "data/catdog_2k"))
        assert python == "python"
        if script == "evaluate.py":
            evaluate(options)
        elif script != "train.py":
            weights = [
                "--backbone=squeezenet1_1",
                "--weights=weights/squeezenet1_1_imagenet.pth",
            ]  # the others download
            monkeypatch.setattr(sys, "argv", [script, *options, *weights])
            runpy.run_path(script, run_name="__main__")
        elif "--devices" not in options:  # two processes: tests/cli/test_devices.py
            if "--inspect" in options:
                train(options)
            elif any(option.endswith(".help") for option in options):
                with pytest.raises(SystemExit) as end:
                    train(options)
                assert not end.value.code
            else:
                train([*options, *FEW])
    *_, code = blocks("python")
    exec(compile(latest(code, clone), "README.md", "exec"), {})
    assert "'" in capsys.readouterr().out.splitlines()[-1]


def latest(text: str, clone: Path) -> str:
    """Put the newest run of the digits in the place of VERSION."""
    versions = sorted(path.parent.name for path in clone.glob("runs/digits_cnn/*/config.yaml"))
    return text.replace("VERSION", versions[-1])


def shape_of(results: str) -> str:
    """The text without its numbers and its columns."""
    return re.sub(r"\s+", " ", re.sub(r"[+-]?[\d.,]*\d", "0", results)).strip()


@pytest.mark.usefixtures("clone")
def test_a_plain_trainer_and_load_from_checkpoint() -> None:
    code, *_ = blocks("python")
    code = code.replace("logger=False", "logger=False, enable_progress_bar=False, accelerator='cpu'")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    best, data, checkpoint, trainer = (names[name] for name in ("best", "data", "checkpoint", "trainer"))
    assert isinstance(best, litlens.ImageClassifier)
    assert best.class_names == list("0123456789")
    # The weights are those of the best epoch: they give the loss again that it was chosen by.
    (found,) = trainer.validate(best, datamodule=data, verbose=False)
    assert found["loss/val"] == pytest.approx(float(checkpoint.best_model_score), rel=1e-5)


def test_the_config_of_a_folder(clone: Path) -> None:
    (text,) = blocks("yaml")
    assert yaml.safe_load(text)["data"]["class_path"] == "FolderDataModule"
    (clone / "flowers.yaml").write_text(text)
    train(["--config=flowers.yaml", "--data.folder=data/catdog_2k", "--trainer.max_epochs=2"])
    (run,) = (clone / "runs" / "flowers").iterdir()
    assert (run / "report.html").is_file()
