"""litlens as other people use it: a wheel in a project of theirs, a notebook, and a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "examples" / "other_project"
SOURCES = ["src", "README.md", "LICENSE", "pyproject.toml", "requirements.txt", "setup.cfg"]
QUICK = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
QUICK += ["--trainer.limit_train_batches=2"]

# Both configs in one process, which imports torch once, and then the test of a checkpoint.
SCRIPT = f"""
import glyphs, litlens, sys
from glyphs.cli import main
print("imported:", litlens.__file__, glyphs.__file__)
configs, data = sys.argv[1:]
del sys.argv[1:]
fonts = ["--config", configs + "/fonts.yaml", "--data.root", data]
shapes = ["--config", configs + "/shapes.yaml", "--data.images=64"]
main(["fit", *fonts, *{QUICK}])
main(["fit", *shapes, *{QUICK}])
main(["test", *shapes, "--ckpt_path=lightning_logs/version_1/checkpoints/epoch=0-step=2.ckpt"])
path = "lightning_logs/version_0/checkpoints/epoch=0-step=2.ckpt"
print("reloaded:", dict(glyphs.GlyphClassifier.load_from_checkpoint(path).hparams))
"""


def copy(names: list[str], folder: Path) -> Path:
    """Copy files and folders of the repository, without what tools have left there."""
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(command: list[str | Path], folder: Path, **variables: str | Path) -> str:
    """What a command prints, without the tests' own PYTHONPATH."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = {**kept, **{key: str(value) for key, value in variables.items()}}
    done = subprocess.run(map(str, command), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheels of litlens and of the project, and the packages of this one."""
    folder = tmp_path_factory.mktemp("wheels")
    (folder / "litlens").mkdir()
    copy(SOURCES, folder / "litlens")
    shutil.copytree(PROJECT, folder / "glyphs", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run([*wheel, folder / "litlens", folder / "glyphs"], folder)
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    wheels = sorted(folder.glob("*.whl"))
    assert [path.name.partition("-")[0] for path in wheels] == ["glyphs", "litlens"]
    run([*pip, f"--python={python}", "install", "--quiet", "--no-deps", "--no-index", *wheels], folder)
    # A path in a .pth file is searched last, and the .pth files in that folder are not read: an editable litlens there
    # is not found.
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site_packages = Path(sysconfig.get_path("purelib", vars=paths))
    (site_packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_a_project_of_its_own_with_litlens_as_a_wheel(python: Path, stand_ins: Path, tmp_path: Path) -> None:
    printed = run(
        [python, "-c", SCRIPT, PROJECT / "configs", stand_ins / "data"],
        tmp_path,
        TORCH_HOME=stand_ins / "torch",
    )
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if line.startswith(("imported", "reloaded")))
    assert all(path.startswith(str(python.parents[1])) for path in lines["imported"].split())
    assert lines["reloaded"] == str({"num_classes": 52, "width": 32, "lr": 0.003})
    assert (python.parent / "glyphs").exists()  # the command
    for version, split in enumerate(("val", "val", "test")):
        events = EventAccumulator(str(tmp_path / "lightning_logs" / f"version_{version}")).Reload()
        drawn = {"confusion_matrix/val", "wrong_samples/val", "grad_cam/val"}
        assert set(events.Tags()["images"]) == (drawn if split == "val" else {"confusion_matrix/test"})


def test_a_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    page = Path("page.html").read_text()
    assert "Confusion matrix" in page
    assert names["found"].maps.shape == (8, 8, 8)
    assert names["result"].value > 0.8


DATA_SET = '''"""Stripes: horizontal or vertical, drawn at random."""

from typing import Any

import numpy as np

from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.split import ArrayImages, Split


class StripesDataModule(ImageDataModule):
    """Gray images of one bright row or column."""

    def __init__(self, number: int = 40, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.class_names, self.in_channels, self.image_size = ["row", "column"], 1, (8, 8)

    def load(self) -> dict[str, Split]:
        """Draw the three splits."""
        rng = np.random.default_rng(self.seed)
        splits = {}
        for name in SPLITS:
            pixels = rng.integers(100, size=(self.number, 8, 8, 1), dtype=np.uint8)
            labels = np.arange(self.number) % 2
            for image, label in zip(pixels, labels, strict=True):
                (image if label == 0 else image.transpose(1, 0, 2))[rng.integers(8)] = 255
            names = [f"{name}/{index:02}" for index in range(self.number)]
            splits[name] = Split(ArrayImages(pixels), rows=np.arange(self.number), labels=labels, names=names)
        return splits
'''

NETWORK = '''"""A network of two layers."""

from torch import Tensor, nn


class StripesNetwork(nn.Module):
    """A convolution along rows and columns, and the largest response."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Conv2d(in_channels, width, 5, padding=2)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes)."""
        return self.head(self.features(images).amax((2, 3)))
'''

CONFIG = """
data: {class_path: litlens.data.datasets.stripes.StripesDataModule, init_args: {batch_size: 8}}
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: litlens.models.networks.stripes.StripesNetwork}
    optimizer: {class_path: Adam, init_args: {lr: 0.02}}
trainer: {max_epochs: 6, accelerator: cpu}
"""


def test_a_copy_of_the_repository_takes_a_data_set_and_a_network(tmp_path: Path) -> None:
    """The way of a template: without the tests and benchmarks of litlens, one file for each and one config."""
    copy([*SOURCES, "configs", "train.py"], tmp_path)
    (tmp_path / "src/litlens/data/datasets/stripes.py").write_text(DATA_SET)
    (tmp_path / "src/litlens/models/networks/stripes.py").write_text(NETWORK)
    (tmp_path / "configs" / "stripes.yaml").write_text(CONFIG)
    printed = run([sys.executable, "train.py", "--config", "configs/stripes.yaml", "--trainer.callbacks=[]"], tmp_path)
    (folder,) = (tmp_path / "runs" / "stripes").iterdir()
    assert f"run folder     {folder.relative_to(tmp_path)}" in printed
    assert json.loads((folder / "results.json").read_text())["accuracy_test"] > 0.8
    assert "row" in (folder / "report.html").read_text()
