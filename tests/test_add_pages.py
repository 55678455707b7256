"""The pages docs/add-a-*.md: their own files, in their places, and their own commands add a class that trains."""

import csv
import importlib
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import litlens
import litlens.callbacks
import litlens.data.datasets
import litlens.models.networks
from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.cli.main import train
from litlens.lazy import lazy_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (litlens, litlens.callbacks, litlens.data.datasets, litlens.models.networks)


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """Write the files that a page names into a folder that litlens' packages reach into, and run its commands there."""
    text = (ROOT / "docs" / page).read_text()
    monkeypatch.chdir(folder)
    (folder / "configs").mkdir()
    (folder / "configs" / "digits_cnn.yaml").symlink_to(ROOT / "configs" / "digits_cnn.yaml")
    for path, block in re.findall(r"^ *`([\w/.]+)`:\n\n *```\w+\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE):
        file, content = folder / path, textwrap.dedent(block)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".pyi":  # a row below those that are there
            content = (ROOT / path).read_text() + content
        file.write_text(content)
    for package in PACKAGES:
        place = folder / "src" / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [str(place), *package.__path__])
        if (place / "__init__.pyi").is_file():
            find, names = lazy_names(package.__name__, str(place / "__init__.py"))
            for name, value in {"__getattr__": find, "__dir__": names}.items():
                monkeypatch.setattr(package, name, value)
    importlib.invalidate_caches()
    commands = re.findall(r"^ *(python .*)", text, flags=re.MULTILINE)
    assert commands
    for python, script, *given in map(shlex.split, commands):
        assert (python, script) == ("python", "train.py")
        if any(option.endswith(".help") for option in given):
            with pytest.raises(SystemExit) as end:
                train(given)
            assert not end.value.code
        else:
            train([*given, *([] if "--inspect" in given else options), "--trainer.enable_progress_bar=false"])


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A page's modules are not imported any more after its test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("litlens."):
            del sys.modules[name]


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    follow("add-a-data-set.md", tmp_path, monkeypatch, "--trainer.callbacks=[]")
    assert "How many images." in capsys.readouterr().out
    (results,) = tmp_path.glob("runs/shapes_cnn/*/results.json")
    found = json.loads(results.read_text())
    assert found["n_test"] == 40
    assert found["accuracy_test"] > 0.9


def test_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow("add-a-model.md", tmp_path, monkeypatch, "--trainer.callbacks=[]", "--trainer.max_epochs=2")
    (results,) = tmp_path.glob("runs/digits_resnet/*/results.json")
    found = json.loads(results.read_text())
    assert found["parameters"] == (9 + 1) * 48 + 3 * 2 * (9 * 48 + 2) * 48 + (48 + 1) * 10
    assert found["accuracy_test"] > 0.8
    # Rebuilt from the checkpoint alone.
    assert load_classifier(results.parent).class_names == list("0123456789")


def test_a_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val")]
    follow("add-a-callback.md", tmp_path, monkeypatch, "--trainer.max_epochs=2", *few)
    (metrics,) = tmp_path.glob("runs/digits_cnn/*/metrics.csv")
    with metrics.open(newline="") as file:
        norms = [float(row["gradient_norm"]) for row in csv.DictReader(file) if row.get("gradient_norm")]
    assert len(norms) == 2
    assert min(norms) > 0
