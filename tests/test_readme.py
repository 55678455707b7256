"""Every command and every piece of code in the README runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from litlens.cli.main import evaluate, train

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("console") for line in block.splitlines()]


def test_the_commands_are_of_kinds_that_are_tested() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"make", ".venv/bin/tensorboard", "pip", "python"}


def test_make_knows_its_targets() -> None:
    for command in COMMANDS:
        if command.startswith("make "):
            subprocess.run(["make", "--dry-run", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)


def test_the_requirements_are_there_and_hold_tensorboard() -> None:
    assert "pip install -r requirements.txt" in COMMANDS
    assert re.search(r"^tensorboard\b", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)


def test_what_the_requirements_leave_out_is_installed_where_it_is_needed() -> None:
    required = {re.split(r"\W", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    needing = COMMANDS.index("python train.py --config configs/mnist_cnn.yaml --config configs/with/wandb.yaml")
    assert "wandb" not in required
    assert COMMANDS[needing - 1] == "pip install wandb"


def test_the_python_commands(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in one folder, on few batches: a later command finds the run of an earlier one."""
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    Image.new("L", (20, 30), 200).save(tmp_path / "photos" / "gray.png")
    few = [f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val")] + ["--trainer.enable_progress_bar=false"]
    ran = 0
    for command in COMMANDS:
        _, script, *options = [*shlex.split(command), ""]
        options = [option for option in options if option]
        if script not in ("train.py", "evaluate.py"):
            continue
        versions = sorted(path.parent for path in tmp_path.glob("runs/digits_cnn/*/config.yaml"))
        latest = str(versions[-1]) if versions else ""
        options = [option.replace("runs/digits_cnn/VERSION", latest) for option in options]
        if script == "evaluate.py":
            evaluate(options)
        elif "--devices" in options:
            continue  # two processes: tests/cli/test_devices.py
        else:
            if "mnist" in command or "fashion" in command:
                options += [f"--data.root={shared_data}", "--trainer.limit_test_batches=2"]
            if "--inspect" not in options:
                options += [*few, "--trainer.max_epochs=1"]
            train(options)
            if "--inspect" in options:
                train(["--config", "configs/digits_cnn.yaml", *few, "--trainer.max_epochs=1"])
        ran += 1
    python = [command for command in COMMANDS if command.startswith("python ") and "--devices" not in command]
    assert ran == len(python)


def test_the_code(tmp_path: Path) -> None:
    code = "\n".join(blocks("python"))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_the_config(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("yaml")
    assert yaml.safe_load(text)["data"]["class_path"] == "FolderDataModule"
    (tmp_path / "flowers.yaml").write_text(text)
    train(
        [
            "--config=flowers.yaml",
            f"--data.folder={shared_data / 'catanddog'}",
            "--trainer.fast_dev_run=true",
            "--data.batch_size=4",
            "--trainer.enable_progress_bar=false",
        ]
    )
