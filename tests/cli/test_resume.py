"""What resuming needs besides Lightning: moved folders, early stopping, ReduceLROnPlateau, max_steps."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from small_classifier import Data, small, trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from litlens.checkpoints.last import LastCheckpoint, Newest
from litlens.checkpoints.reading import previous_checkpoint, read_checkpoint
from litlens.cli.main import evaluate, train
from litlens.cli.resume import Resumption, check_resumption
from litlens.cli.run_folder import BEST, LAST
from litlens.errors import UserError
from litlens.models.classifier import CHECKPOINT_FORMAT

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ["--config", str(ROOT / "configs" / "digits_cnn.yaml")]
# One logger that shows no images: drawing them takes longer than these runs do.
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs"]


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("runs/*/*")
    return run


def steps(run: Path) -> int:
    return int(read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"])


def test_a_run_that_was_moved_keeps_its_best(tmp_path: Path) -> None:
    """Lightning alone restores `best_model_path`, which no longer exists, and forgets the score."""
    old, new = tmp_path / "old", tmp_path / "new"
    before = ModelCheckpoint(old, monitor="accuracy/val", mode="max", filename="best")
    best = str(old / "best.ckpt")
    new.mkdir()
    torch.save({"litlens": {"format": CHECKPOINT_FORMAT}, "state_dict": {}}, new / "best.ckpt")
    before.best_model_score, before.best_model_path, before.kth_best_model_path = torch.tensor(0.9), best, best
    before.best_k_models, before.last_model_path = {best: torch.tensor(0.9)}, ""
    before.current_score = torch.tensor(0.7)
    after = ModelCheckpoint(new, monitor="accuracy/val", mode="max", filename="best")
    checkpoint: dict[str, Any] = {"callbacks": {before.state_key: before.state_dict()}, "litlens": {"metrics": {}}}

    Resumption({}, folder=new).on_load_checkpoint(SimpleNamespace(checkpoint_callbacks=[after]), None, checkpoint)  # type: ignore[arg-type]
    after.load_state_dict(checkpoint["callbacks"][after.state_key])
    assert after.best_model_score == torch.tensor(0.9)
    assert after.current_score == torch.tensor(0.7)
    assert after.best_model_path == after.kth_best_model_path == str(new / "best.ckpt")
    assert after.best_k_models == {str(new / "best.ckpt"): torch.tensor(0.9)}
    assert after.last_model_path == ""
    assert not after.check_monitor_top_k(SimpleNamespace(strategy=Alone()), torch.tensor(0.8))  # type: ignore[arg-type]


class Alone:
    """The part of Lightning's strategy that `check_monitor_top_k` uses."""

    def reduce_boolean_decision(self, decision: bool) -> bool:
        return decision


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # No loss falls by ten: the second epoch, of 33 steps as each, is the first without progress.
    stopping = [f"--early_stopping.{option}" for option in ("monitor=loss/val", "min_delta=10", "patience=1")]
    train([*CONFIG, *QUIET, "--early_stopping=EarlyStopping", *stopping])
    run = only_run(tmp_path)
    assert steps(run) == 66
    tested = (run / "predictions-test.csv").read_bytes()
    (run / "predictions-test.csv").unlink()  # as if Ctrl-C had come in the test
    train(["--resume", str(run), *QUIET])
    assert steps(run) == 66
    assert (run / "predictions-test.csv").read_bytes() == tested


def test_a_run_that_stopped_in_its_first_epoch_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's `stopped_epoch` is 0 there, as for a run that did not stop."""
    monkeypatch.chdir(tmp_path)
    stopping = ["--early_stopping=EarlyStopping", "--early_stopping.monitor=loss/val"]
    train([*CONFIG, *QUIET, *stopping, "--early_stopping.stopping_threshold=9"])
    run = only_run(tmp_path)
    assert steps(run) == 33
    train(["--resume", str(run), *QUIET])
    assert steps(run) == 33


def test_more_epochs_on_resume_are_kept_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train([*CONFIG, *QUIET, "--trainer.max_epochs=1", "--model.lr_scheduler=null"])
    run = only_run(tmp_path)
    seconds = json.loads((run / "results.json").read_text())["seconds"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(["--resume", str(run), *QUIET, "--trainer.max_epochs=2", "--model.optimizer.lr=0.1"])
    assert capsys.readouterr().err == (
        "error: model.optimizer.lr: 0.1 instead of 0.003: a resumed run keeps its optimizer and schedule: remove it, "
        "or start a new run from the weights by --model.init_from RUN_DIR\n"
    )
    train(["--resume", str(run), *QUIET, "--trainer.max_epochs=2"])
    assert steps(run) == 66
    assert json.loads((run / "results.json").read_text())["seconds"] > seconds
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    train(["--resume", str(run), *QUIET])
    assert steps(run) == 66


@pytest.mark.parametrize(
    ("limits", "options", "line"),
    [
        ({"max_epochs": 4}, {}, "trainer.max_epochs: 4: the run has begun 5 already: give 5 or more"),
        ({"max_steps": 60}, {}, "trainer.max_steps: 60: the run has begun 70 already: give 70 or more"),
        ({}, {"optimizer": {"class_path": "torch.optim.Adam"}}, "model.optimizer: Adam instead of SGD: a resumed run"),
        ({}, {"lr_scales": {"head": 3.0}}, "model.lr_scales.head: 3.0 instead of None: a resumed run"),
        ({"max_epochs": 5}, {}, ""),
        ({"max_epochs": -1, "max_steps": 70}, {}, ""),
        ({}, {"label_smoothing": 0.1}, ""),
    ],
    ids=str,
)
def test_what_cannot_be_resumed_is_one_line(limits: dict[str, int], options: dict[str, Any], line: str) -> None:
    """Of a run that was killed in its fifth epoch, after 70 steps."""
    before = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {}}, "lr_scales": None}
    configs = [{"model": {"init_args": init_args}} for init_args in (before, {**before, **options})]
    newest = Newest(Path("last.ckpt"), step=70, epochs=5, devices=1, config=configs[0], logged={})
    limited: Any = SimpleNamespace(**{"max_epochs": 12, "max_steps": -1, **limits})
    if not line:
        check_resumption(limited, newest, configs[1])
        return
    with pytest.raises(UserError, match=f"^{line}"):
        check_resumption(limited, newest, configs[1])


def test_metrics_of_a_checkpoint_are_those_of_the_resumed_run(tmp_path: Path) -> None:
    """Lightning starts without; what is stored until the next validation would lack them."""
    trainer: Any = SimpleNamespace(
        checkpoint_callbacks=[], callback_metrics={}, is_global_zero=False, early_stopping_callbacks=[]
    )
    resumption = Resumption({}, folder=tmp_path)
    resumption.on_load_checkpoint(trainer, None, {"callbacks": {}, "litlens": {"metrics": {"loss/val": 0.1}}})  # type: ignore[arg-type]
    assert trainer.callback_metrics == {}
    resumption.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == {"loss/val": 0.1}


def test_reduce_lr_on_plateau_counts_the_last_epoch_before_the_interruption(tmp_path: Path) -> None:
    """No epoch counts as progress, and each halves the rate."""

    def fit(epochs: int, **settings: Any) -> Any:
        seed_everything(0)
        last = LastCheckpoint(tmp_path)
        run = trainer(max_epochs=epochs, callbacks=[last], enable_checkpointing=True)
        plateau = partial(ReduceLROnPlateau, patience=0, threshold=1.0, factor=0.5)
        run.fit(small(optimizer=partial(torch.optim.SGD, lr=1.0), lr_scheduler=plateau), Data(), **settings)
        return run.optimizers[0].param_groups[0]["lr"], run.lr_scheduler_configs[0].scheduler.state_dict()

    uninterrupted = fit(5)
    assert uninterrupted[0] == 1 / 32
    fit(3)
    assert fit(5, ckpt_path=tmp_path / LAST, weights_only=True) == uninterrupted


def test_a_run_by_max_steps_is_not_resumed_by_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train([*CONFIG, *QUIET, "--trainer.max_epochs=-1", "--trainer.max_steps=33", "--model.lr_scheduler=null"])
    run = only_run(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(["--resume", str(run), *QUIET, "--trainer.max_steps=66"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--trainer.max_steps=-1 --trainer.max_epochs=N" in line
    train(["--resume", str(run), *QUIET, "--trainer.max_steps=-1", "--trainer.max_epochs=2"])
    assert steps(run) == 66


def flip_a_sign(path: Path) -> None:
    """Flip the highest bit of a byte in the middle of a file, where the weights are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_reported_and_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A checkpoint after every step, after the 33rd before the validation, and one at the end of the epoch.
    train([*CONFIG, *QUIET, "--trainer.max_epochs=1", "--model.lr_scheduler=null", "--checkpoint_minutes=0"])
    run = only_run(tmp_path)
    trained = read_checkpoint(run / LAST)["state_dict"]
    flip_a_sign(run / LAST)
    flip_a_sign(run / BEST)
    assert read_checkpoint(previous_checkpoint(run / LAST))["global_step"] == 33
    (run / BEST).rename(tmp_path / "best.ckpt")
    capsys.readouterr()
    train(["--resume", str(run), *QUIET])
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "is damaged: " in line]
    assert note.startswith(f"{run / LAST} is damaged: ")
    assert note.endswith("; resuming from last-previous.ckpt, step 33")
    torch.testing.assert_close(read_checkpoint(run / LAST)["state_dict"], trained, rtol=0, atol=0)

    (tmp_path / "best.ckpt").replace(run / BEST)
    for command in (["--resume", str(run)], [*CONFIG, "--model.init_from", str(run)]):
        with pytest.raises(SystemExit):
            train([*command, *QUIET])
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{run.resolve() / BEST if '--resume' in command else run / BEST} is damaged: " in line
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(run)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run / BEST} is damaged: ")
    (run / BEST).unlink()
    train(["--resume", str(run), *QUIET, "--trainer.max_epochs=2"])
    assert read_checkpoint(run / BEST)["global_step"] == 66
