"""Two short runs on the digits, a CNN's and an MLP's, that the tests of the command's pages look at."""

from pathlib import Path

import pytest

from litlens.cli.main import train

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


def _trained(folder: Path, *options: str) -> Path:
    before = set(folder.glob("runs/digits_cnn/*"))
    train(["--config", str(ROOT / "configs" / "digits_cnn.yaml"), *QUIET, *options])
    (run,) = set(folder.glob("runs/digits_cnn/*")) - before
    return run


@pytest.fixture(scope="session")
def digits_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of two epochs: `cnn`, and `mlp`, which has no maps."""
    folder = tmp_path_factory.mktemp("runs")
    mlp = ["--model.network", "litlens.MLP", "--model.lr_scheduler=null"]
    with pytest.MonkeyPatch.context() as patch:  # ends before the tests: they have a current folder of their own
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        return {
            "cnn": _trained(folder, "--trainer.max_epochs=2"),
            "mlp": _trained(folder, *mlp, "--trainer.max_epochs=1"),
        }
