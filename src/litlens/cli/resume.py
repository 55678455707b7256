"""Going on with a run that was interrupted: its own config, its last checkpoint, its folder and its metrics."""

import csv
import warnings
from itertools import pairwise
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from litlens.checkpoints.reading import read_checkpoint
from litlens.errors import UserError


def resumed_args(args: list[str]) -> tuple[list[str], Path | None]:
    """Put the config of the run that `--resume RUN_DIR` names before all other options; the run's folder, if any."""
    names = [after for arg, after in pairwise(args) if arg == "--resume"]
    names += [arg.partition("=")[2] for arg in args if arg.startswith("--resume=")]
    if not names:
        return args, None
    folder = Path(names[-1])
    for needed in (folder / "config.yaml", last_checkpoint(folder)):
        if not needed.is_file():
            raise UserError(f"--resume: there is no {needed}, so nothing to go on from: name a run folder")
    return ["--config", str(folder / "config.yaml"), *args], folder


def last_checkpoint(folder: Path) -> Path:
    """Where a run keeps its newest state."""
    return folder / "checkpoints" / "last.ckpt"


def keep_metrics(trainer: Trainer, *, folder: Path) -> None:
    """Write metrics.csv again as it was at the last checkpoint; the logger deletes the file when it opens the folder.

    See `_check_log_dir_exists` in lightning/fabric/loggers/csv_logs.py.
    """
    path = folder / "metrics.csv"
    if not path.is_file() or not trainer.is_global_zero:
        return
    step = read_checkpoint(last_checkpoint(folder))["global_step"]
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        kept, keys = [row for row in rows if int(row["step"]) < step], list(rows.fieldnames or [])
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Experiment logs directory")
                writer = logger.experiment
            writer.metrics_keys = keys
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=keys)
                table.writeheader()
                table.writerows(kept)
