"""metrics.csv and event files: never emptied by a kill, and cut back to what a checkpoint says."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlens.checkpoints import logs
from litlens.checkpoints.logs import open_logs, written_logs


def trainer_in(folder: Path) -> Any:
    place: dict[str, Any] = {"save_dir": folder.parent, "name": folder.name, "version": ""}
    loggers = [CSVLogger(**place), TensorBoardLogger(**place, default_hp_metric=False)]
    return SimpleNamespace(is_global_zero=True, loggers=loggers)


def log(trainer: Any, name: str, steps: range) -> None:
    for step in steps:
        for logger in trainer.loggers:
            logger.log_metrics({name: step / 2}, step=step)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)] if tag in reader.Tags()["scalars"] else []


def test_what_was_logged_after_a_checkpoint_is_cut_off(tmp_path: Path) -> None:
    """Also a new column, an event file and a half of a row and of an event, which a kill leaves."""
    run, first = tmp_path / "run", trainer_in(tmp_path / "run")
    open_logs(first)
    log(first, "a", range(3))
    logged = written_logs(first)
    log(first, "b", range(3, 5))
    written_logs(first)
    with (run / "metrics.csv").open("a") as file:
        file.write("3.5,")
    for path in run.glob("events*"):
        with path.open("ab") as file:
            file.write(b"\x18\0\0")
    (run / "events.out.tfevents.9999999999.later").touch()

    resumed = trainer_in(run)
    open_logs(resumed, logged)
    log(resumed, "a", range(3, 6))
    written_logs(resumed)
    assert [row["a"] for row in rows(run)] == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
    assert [row["step"] for row in rows(run)] == ["0", "1", "2", "3", "4", "5"]
    assert scalars(run, "a") == [(step, step / 2) for step in range(6)]
    assert scalars(run, "b") == []
    assert not (run / "events.out.tfevents.9999999999.later").exists()


@pytest.mark.parametrize("moment", ["a new column", "a resume"])
def test_a_kill_in_a_rewrite_leaves_the_rows(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = tmp_path / "run", trainer_in(tmp_path / "run")
    open_logs(first)
    log(first, "a", range(3))
    logged = written_logs(first)

    def killed(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(logs, "write_atomically", killed)
    if moment == "a new column":
        log(first, "b", range(3, 4))
    with pytest.raises(InterruptedError):
        open_logs(trainer_in(run), logged) if moment == "a resume" else written_logs(first)
    assert [row["a"] for row in rows(run)] == ["0.0", "0.5", "1.0"]


def test_logs_that_were_deleted_start_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    resumed = trainer_in(run)
    open_logs(resumed, {"metrics.csv": 3, "events.out.tfevents.1": 100})
    log(resumed, "a", range(3, 5))
    assert written_logs(resumed)["metrics.csv"] == 2
    assert [row["step"] for row in rows(run)] == ["3", "4"]
