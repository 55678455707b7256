"""Every shipped config parses and runs, a batch of each stage, on the data that it is for."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import litlens
from litlens.cli.main import train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def data_options(config: Path, shared_data: Path, shared_weights: Path) -> list[str]:
    """Where the data and weights of a config lie, as options."""
    values = yaml.safe_load(config.read_text())
    data = values["data"]["class_path"]
    if data == "DigitsDataModule":
        return []
    if data in ("MNISTDataModule", "FashionMNISTDataModule", "FontsDataModule"):
        return [f"--data.root={shared_data}"]
    options = [f"--data.folder={shared_data / Path(values['data']['init_args']['folder']).name}"]
    weights = values["model"]["init_args"]["network"].get("init_args", {}).get("weights")
    if weights == "DEFAULT":  # would be downloaded
        options.append("--model.network.weights=null")
    elif weights is not None:
        options.append(f"--model.network.weights={shared_weights / Path(weights).name}")
    return options


@pytest.mark.parametrize("name", NAMES)
def test_a_config_runs(
    name: str, shared_data: Path, shared_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = data_options(CONFIGS / name, shared_data, shared_weights)
    small = ["--trainer.fast_dev_run=true", "--data.batch_size=4", "--trainer.enable_progress_bar=false"]
    train(["--config", str(CONFIGS / name), *options, *small])


@pytest.mark.parametrize("overlay", sorted(path.name for path in (CONFIGS / "with").glob("*.yaml")))
def test_an_overlay_runs_over_the_digits(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if overlay == "wandb.yaml":
        pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    configs = [str(CONFIGS / "digits_cnn.yaml"), str(CONFIGS / "with" / overlay)]
    train(["--config", configs[0], "--config", configs[1], *small])
    run = next((tmp_path / "runs" / "digits_cnn").iterdir())
    if overlay == "wandb.yaml":
        assert list(run.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("config", NAMES)
def test_a_config_says_nothing_that_is_said_already(config: str) -> None:
    """What follows from the data or is a default already is left out, and the head says what the config is for."""
    text = (CONFIGS / config).read_text()
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
