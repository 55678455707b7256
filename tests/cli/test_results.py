"""The page of a run: the same after training and after evaluation, with the facts of the run and no private path."""

import html
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from litlens.cli.main import evaluate
from litlens.cli.results import without_private_paths

ROOT = Path(__file__).resolve().parents[2]


def test_training_and_evaluation_write_the_same_page(digits_runs: dict[str, Path], tmp_path: Path) -> None:
    run = digits_runs["cnn"]
    page = (run / "report.html").read_bytes()
    copy = tmp_path / "runs" / "digits_cnn" / run.name
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    for _ in range(2):
        evaluate(["--ckpt_path", str(copy), "--accelerator=cpu"])
        assert (copy / "report.html").read_bytes() == page


def test_the_page_describes_the_run(digits_runs: dict[str, Path]) -> None:
    text = (digits_runs["cnn"] / "report.html").read_text()
    for words in ("MnistCNN", "AdamW, learning rate 0.003", "DigitsDataModule, 8×8", "seed_everything: 42", "torch"):
        assert words in text
    assert "Grad-CAM of" in text
    assert "Loss of training and validation" in text


def test_the_page_reveals_nothing_of_the_machine(digits_runs: dict[str, Path]) -> None:
    text = re.sub(r"data:image/[^\"]*", "", (digits_runs["cnn"] / "report.html").read_text())
    for place in (str(Path.home()), str(ROOT), str(digits_runs["cnn"].parents[3]), platform.node()):
        assert len(place) < 3 or place not in text
    assert not re.search(r"20\d\d-\d\d-\d\d(?!_)", text)  # the run's own name is a time, there is no other date


def test_the_page_of_a_network_without_maps(digits_runs: dict[str, Path]) -> None:
    text = (digits_runs["mlp"] / "report.html").read_text()
    assert "No Grad-CAM: MLP has no layer" in text
    assert "Grad-CAM of" not in text


def test_paths_of_the_machine_are_shortened() -> None:
    config: dict[str, Any] = {
        "data": {"root": "/home/me/data", "folder": "~/images", "csv": None, "batch_size": 3, "resize_mode": "crop"},
        "list": ["C:\\me\\weights.pth", "data/mnist", 0.5],
    }
    assert without_private_paths(config) == {
        "data": {"root": "…/data", "folder": "…/images", "csv": None, "batch_size": 3, "resize_mode": "crop"},
        "list": ["…/weights.pth", "data/mnist", 0.5],
    }


def test_the_page_shows_the_config_of_the_run(digits_runs: dict[str, Path]) -> None:
    text = (digits_runs["cnn"] / "report.html").read_text()
    shown = yaml.safe_load(html.unescape(re.search(r"<pre>(.*?)</pre>", text, flags=re.DOTALL)[1]))  # type: ignore[index]
    assert shown == without_private_paths(yaml.safe_load((digits_runs["cnn"] / "config.yaml").read_text()))
