"""Every shipped config and overlay runs as it is: on small stand-ins always, and on the real data where they are."""

import inspect
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_overlays import EFFECTS
from torch import Tensor
from wandb.proto.wandb_internal_pb2 import Record

import litlens
from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
# The effect of the others is tried in test_overlays, and that of the finders in cli/test_finders.
TRIED = {"short", "compile", "lr_finder", "batch_size_finder", *(effect.__name__ for effect in EFFECTS)}
OVERLAYS = sorted({path.stem for path in (CONFIGS / "with").glob("*.yaml")} - TRIED)
# Some configs validate every fifth epoch, and there is one here.
ONE_BATCH = ["--trainer.fast_dev_run=true", "--trainer.check_val_every_n_epoch=1"]
# How many test images `write_stand_ins` leaves: 40 in IDX files, 2 fonts of 12 in 52 classes, 2 × 4 in test/, a tenth
# of 2 × 20, and a fifth of scikit-learn's 1,797 digits.
TEST_IMAGES = {"mnist": 40, "fashion": 40, "fonts": 104, "catdog": 8, "catdog2k": 4, "digits": 359, "folder": 4}
# What a config leaves to the command line.
GIVEN = {"folder": ["--data.folder=data/catdog_2k"]}


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, *, data: Path, weights: Path, torch_home: Path) -> None:
    """Go to a folder where `data` and `weights` are where the configs look for them, and nothing is downloaded."""
    (folder / "data").symlink_to(data)
    (folder / "weights").symlink_to(weights)
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.chdir(folder)


@pytest.fixture
def on_stand_ins(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(
        tmp_path,
        monkeypatch,
        data=stand_ins / "data",
        weights=stand_ins / "weights",
        torch_home=stand_ins / "torch",
    )


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The loss of every step, by stage."""
    found: dict[str, list[float]] = {"training": [], "validation": [], "test": []}
    for stage, kept in found.items():
        step = getattr(litlens.ImageClassifier, f"{stage}_step")

        def measured(*args: Any, _step: Any = step, _kept: list[float] = kept) -> Any:
            output = _step(*args)
            _kept.append((output if isinstance(output, Tensor) else output["loss"]).item())
            return output

        monkeypatch.setattr(litlens.ImageClassifier, f"{stage}_step", measured)
    return found


def run(*names: str, options: list[str]) -> None:
    configs = [f"--config={CONFIGS / name}.yaml" for name in names]
    given = [option for name in names for option in GIVEN.get(name, [])]
    train([*configs, *given, *options, "--data.batch_size=4", "--trainer.enable_progress_bar=false"])


def assert_one_batch_of_each_stage(losses: dict[str, list[float]]) -> None:
    assert {stage: len(values) for stage, values in losses.items()} == {"training": 1, "validation": 1, "test": 1}
    assert all(math.isfinite(value) for values in losses.values() for value in values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("on_stand_ins")
def test_a_config_runs_on_stand_ins(name: str, losses: dict[str, list[float]]) -> None:
    run(name, options=ONE_BATCH)
    assert_one_batch_of_each_stage(losses)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits_cnn"])  # its data are always real
def test_a_config_runs_on_real_data(
    name: str,
    shared_data: Path,
    shared_weights: Path,
    stand_ins: Path,
    losses: dict[str, list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(tmp_path, monkeypatch, data=shared_data, weights=shared_weights, torch_home=stand_ins / "torch")
    run(name, options=ONE_BATCH)
    assert_one_batch_of_each_stage(losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("on_stand_ins")
def test_a_config_runs_to_its_report_on_stand_ins(name: str) -> None:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]
    epochs = settings.get("check_val_every_n_epoch", 1)
    run(name, options=["--trainer.limit_train_batches=2", f"--trainer.max_epochs={epochs}"])
    (results,) = Path("runs", name).glob("*/results.json")
    assert json.loads(results.read_text())["n_test"] == TEST_IMAGES[name.partition("_")[0]]
    assert (results.parent / "report.html").is_file()


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.usefixtures("on_stand_ins")
def test_an_overlay_runs_over_the_digits(
    overlay: str, losses: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    few = [f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val")]
    run("digits_cnn", f"with/{overlay}", options=["--trainer.max_epochs=1", *few])
    assert len(losses["training"]) == 1
    assert min(len(losses["validation"]), len(losses["test"])) >= 1
    (folder,) = Path("runs/digits_cnn").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert any(name.startswith("events.out.tfevents") for name in names) == (overlay != "csv")
    assert {"metrics.csv", "report.html"} <= names
    if overlay == "wandb":
        assert_logged_offline(folder)


def assert_logged_offline(folder: Path) -> None:
    """W&B's own file has scalars, figures, a table of mistakes with its images, and the best checkpoint."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    records: list[Any] = []
    while not any(record.HasField("exit") for record in records):  # W&B's own process writes the file
        assert time.monotonic() < deadline
        time.sleep(0.2)
        records = [Record.FromString(record) for record in wandb_records(path.read_bytes())]
    logged: dict[str, Any] = {}
    for record in records:
        logged |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
    best = read_checkpoint(folder / "checkpoints" / "best.ckpt")["litlens"]["metrics"]
    assert logged["best/accuracy/val"] == pytest.approx(best["accuracy/val"])
    assert {"loss/train", "accuracy/val", "accuracy/test", "f1/val/3"} <= logged.keys()
    for figure in ("confusion_matrix/test", "learning_curves", "grad_cam/val"):
        (image,) = logged[f"{figure}/filenames"]
        assert (path.parent / "files" / image).is_file()
    table = json.loads((path.parent / "files" / logged["wrong_samples/val/table/path"]).read_text())
    assert table["columns"] == ["image", "name", "label", "predicted", "confidence", "loss"]
    assert 1 <= len(table["data"]) <= 12
    for _, name, label, predicted, _, loss in table["data"]:
        assert name.startswith("digits/")
        assert label != predicted
        assert loss > 0
    artifacts = {record.artifact.type: record.artifact for record in records if record.artifact.type}
    images = [file for file in artifacts["run_table"].manifest.contents if file.path.startswith("media/images/")]
    assert len(images) == len(table["data"])
    (file,) = artifacts["model"].manifest.contents
    assert (file.path, Path(file.local_path).resolve()) == ("model.ckpt", (folder / "checkpoints/best.ckpt").resolve())


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, in LevelDB's log format: blocks of 32 kB, a record whole or in parts."""
    place, record = 7, b""
    while place < len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.parametrize("config", NAMES)
def test_a_config_says_nothing_that_is_said_already(config: str) -> None:
    """What follows from the data or is a default already is left out, and the head says what the config is for."""
    text = (CONFIGS / f"{config}.yaml").read_text()
    assert text.startswith("# ")
    for word in ("num_classes", "class_names", "in_channels", "seed_everything: 42"):
        assert word not in text
    for name, options in classes_with_options(yaml.safe_load(text)):
        if hasattr(litlens, name):  # of torch's optimizers, a rate is worth reading even where it is the default
            parameters = inspect.signature(getattr(litlens, name)).parameters
            for key, value in options.items():
                default = parameters[key].default if key in parameters else inspect.Parameter.empty
                assert value != (list(default) if isinstance(default, tuple) else default), f"{name}.{key}"


def classes_with_options(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class that a config names, with the options that it sets."""
    if isinstance(config, list):
        for value in config:
            yield from classes_with_options(value)
    elif isinstance(config, dict):
        if "class_path" in config:
            yield config["class_path"], config.get("init_args", {})
        for value in config.values():
            yield from classes_with_options(value)
