"""Another labeled set, and other splits of the run's own: what is scored, and under which names."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from litlens.cli.main import evaluate, train
from litlens.evaluation.predictions import Predictions

CONFIG = """\
data:
  class_path: FolderDataModule
  init_args: {folder: set, image_size: 8, channels: 1}
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: litlens.MLP}
    optimizer: {class_path: Adam, init_args: {lr: 0.01}}
early_stopping: null
trainer: {max_epochs: 2, accelerator: cpu, logger: false}
"""
DIGITS = load_digits()


def draw(folder: Path, names: list[str], *, each: int, start: int = 0) -> None:
    """Files of the first digits, `each` of a class."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(DIGITS.target == label)[start : start + each]:
            pixels = np.minimum(DIGITS.images[index] * 16, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:04}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on three classes, and sets of other layouts beside it."""
    folder = tmp_path_factory.mktemp("other")
    three = ["cat", "dog", "owl"]
    draw(folder / "set", three, each=60)
    draw(folder / "flat", three, each=30, start=60)
    draw(folder / "test-only" / "test", three, each=30, start=60)
    draw(folder / "two-of-three", ["cat", "dog"], each=30, start=60)
    draw(folder / "split" / "train", three, each=20, start=60)
    draw(folder / "split" / "test", three, each=10, start=80)
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "split"])
        rows.writerows([path.relative_to(folder), path.parent.name, "test"] for path in (folder / "flat").glob("*/*"))
    (folder / "config.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        train(["--config", "config.yaml"])
        (run,) = (folder / "runs" / "config").iterdir()
        yield run


@pytest.mark.filterwarnings("ignore:.*absent|.*y_true:UserWarning")
@pytest.mark.parametrize(
    ("options", "scored"),
    [
        (["--data.folder=flat"], 90),
        (["--data.folder=test-only"], 90),
        (["--data.folder=two-of-three"], 60),
        (["--data.folder=.", "--data.csv=rows.csv"], 90),
        (["--data.folder=split"], 30),
        (["--data.folder=split", "--split=all"], 90),
        (["--data.folder=flat", "--split=test"], 9),
        (["--split=val"], 54),
        (["--split=all"], 180),
        ([], 18),
    ],
)
def test_every_image_is_scored_by_its_own_class(
    trained: Path, options: list[str], scored: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(["--ckpt_path", str(trained), "--output", str(tmp_path), "--accelerator=cpu", *options])
    assert json.loads((tmp_path / "results.json").read_text())["n_test"] == scored
    predictions = Predictions.load(tmp_path / "predictions-test.csv")
    assert list(predictions.class_names) == ["cat", "dog", "owl"]
    for name, label in zip(predictions.names, predictions.labels, strict=True):
        assert Path(name).parent.name == predictions.class_names[label]
    assert ("no image of 1 classes: owl" in caplog.text) == ("two-of-three" in "".join(options))


def test_the_run_folder_stays_as_it_was(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "results.json").read_bytes()
    for option, words in (("--data.folder=flat", "not those of the training"), ("--split=val", "scored on val")):
        evaluate(["--ckpt_path", str(trained), "--accelerator=cpu", option])
        assert words in capsys.readouterr().out
    assert (trained / "results.json").read_bytes() == before


def test_a_class_that_the_run_does_not_know_is_a_mistake(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("more"), ["cat", "dog", "owl", "emu"], each=5)
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(trained), "--data.folder=more"])
    assert "emu" in capsys.readouterr().err


def test_names_that_yaml_reads_as_numbers_resume_and_evaluate(trained: Path) -> None:
    names = ["1e3", "2e5", "3e1"]
    draw(Path("numbers"), names, each=40)
    train(["--config", "config.yaml", "--data.folder=numbers", "--trainer.max_epochs=1"])
    run = max(trained.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    train(["--resume", str(run), "--trainer.max_epochs=2"])
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu"])
    assert list(Predictions.load(run / "predictions-test.csv").class_names) == names


def test_a_class_folder_that_is_not_utf8_resumes(trained: Path) -> None:
    draw(Path("odd"), [os.fsdecode(b"caf\xe9"), "dog"], each=40)
    train(["--config", "config.yaml", "--data.folder=odd", "--trainer.max_epochs=1"])
    run = max(trained.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    train(["--resume", str(run), "--trainer.max_epochs=2"])
    assert json.loads((run / "results.json").read_text())["epochs"] == 2
