"""The finders of a batch size and a learning rate: what they find, and that the run is the one with those values."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.finders import CURVE, _scale_rates
from litlens.cli.main import train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ["--config", str(ROOT / "configs" / "digits_cnn.yaml")]
RATE, SIZE = (["--config", str(ROOT / "configs" / "with" / f"{name}_finder.yaml")] for name in ("lr", "batch_size"))
SMALL = [
    *("--model.network=litlens.MLP", "--data.augment=null", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
    *("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.limit_test_batches=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*options: str) -> Path:
    """Train on the digits and return the run folder."""
    before = set(Path("runs", "digits_cnn").glob("*"))
    train([*CONFIG, *SMALL, *options])
    (folder,) = set(Path("runs", "digits_cnn").glob("*")) - before
    return folder


def saved(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration in config.yaml, which is that of the checkpoint, and the last weights."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert checkpoint["litlens"]["config"] == config
    return config, checkpoint["state_dict"]


def test_a_run_with_values_that_were_found_is_the_one_with_the_same_values_given(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Both finders, with a rate and a batch size that train nothing; OneCycleLR takes its rate from max_lr."""
    bad = ["--model.optimizer.lr=1e-9", "--model.lr_scheduler.max_lr=1e-9", "--data.batch_size=5000"]
    found = run(*SIZE, *RATE, "--trainer.callbacks.num_training_steps=40", *bad)
    captured = capfd.readouterr()
    assert "\r" not in captured.err  # no bar in a file
    assert {path.name for path in found.iterdir() if path.suffix != ".0"} == {
        *("config.yaml", "splits.csv", "checkpoints", "metrics.csv"),
        *("predictions-test.csv", "results.json", "report.html", CURVE),
    }
    config, weights = saved(found)
    assert config["data"]["init_args"]["batch_size"] == 1024  # of 1,078 images
    rate = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert 1e-3 <= rate <= 0.05
    assert f"model.optimizer.lr: {rate} (LearningRateFinder" in captured.out
    assert f"{rate:g}, a tenth of" in (found / CURVE).read_text()

    given = run(f"--model.optimizer.lr={rate}", f"--model.lr_scheduler.max_lr={rate}", "--data.batch_size=1024")
    by_hand, expected = saved(given)
    assert config == by_hand
    assert all(torch.equal(weights[name], value) for name, value in expected.items())

    train(["--resume", str(found), *SMALL])
    assert "Finder" not in capfd.readouterr().out
    assert saved(found)[0] == config


def test_the_rates_of_the_groups_stay_apart() -> None:
    weights = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "lr_scale": 0.03}], lr=0.1)
    optimizer.register_step_pre_hook(_scale_rates)
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    assert [weight.item() for weight in weights] == pytest.approx([0.9, 0.997])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*SIZE, "--trainer.devices=2"], "BatchSizeFinder: trainer.devices: 2: a finder runs on one device"),
        ([*RATE, "--trainer.callbacks.num_training_steps=5"], "LearningRateFinder: no loss after step 10 is finite"),
    ],
)
def test_what_cannot_be_found_is_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train([*CONFIG, *SMALL, *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not Path("runs").exists()
