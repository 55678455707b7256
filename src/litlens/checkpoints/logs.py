"""What a run has logged, kept in step with its checkpoints: metrics.csv and TensorBoard's event files.

A checkpoint says how much had been logged when it was written. Where a run goes on from it, what came later is cut off,
so that no step is missing and none is there twice, wherever the run was killed.
"""

import csv
import io
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from litlens.files import write_atomically

_EVENTS = "events.out.tfevents.*"


class MetricsWriter(ExperimentWriter):
    """Lightning's writer of metrics.csv, with a file that a kill cannot empty.

    Lightning's deletes the file when it opens the folder again, and writes it again in place for every new column
    (lightning/fabric/loggers/csv_logs.py). `rows` counts those in the file.
    """

    def __init__(self, log_dir: str, rows: int = 0) -> None:
        super().__init__(log_dir)
        path, kept = Path(self.metrics_file_path), []
        if rows and path.is_file():
            with path.open(newline="") as file:
                table = csv.DictReader(file)
                kept = list(itertools.islice(table, rows))
            self.metrics_keys = list(table.fieldnames or [])
            write_atomically(path, _table(self.metrics_keys, kept))
        else:
            path.unlink(missing_ok=True)
        self.rows = len(kept)

    def save(self) -> None:
        """Append what was logged since, or with new columns, write the file again."""
        self.rows += len(self.metrics)
        super().save()

    def _check_log_dir_exists(self) -> None:
        """Delete nothing."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            write_atomically(path, _table(fieldnames, csv.DictReader(file)))


def open_logs(trainer: Trainer, logged: dict[str, int] | None = None) -> None:
    """Open metrics.csv and the event files in the folders of their loggers, cut back to what a checkpoint says.

    Args:
        trainer: Its loggers have not logged yet.
        logged: As from `written_logs`; None for a new run, whose folder has no logs.
    """
    if not trainer.is_global_zero:
        return
    logged = logged or {}
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            # The writer is public and the logger's attribute is not: Lightning constructs it without a choice.
            logger._experiment = MetricsWriter(logger.log_dir, logged.get(ExperimentWriter.NAME_METRICS_FILE, 0))
        elif isinstance(logger, TensorBoardLogger):
            for path in Path(logger.log_dir).glob(_EVENTS):
                if path.name not in logged:
                    path.unlink()
                elif path.stat().st_size > logged[path.name]:
                    os.truncate(path, logged[path.name])


def written_logs(trainer: Trainer) -> dict[str, int]:
    """Bring everything logged onto the disk: the rows of metrics.csv, and the bytes of each event file."""
    logged: dict[str, int] = {}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if not isinstance(logger, CSVLogger | TensorBoardLogger):
            continue
        logger.save()
        if isinstance(logger, CSVLogger):
            paths = [Path(logger.log_dir, ExperimentWriter.NAME_METRICS_FILE)]
            writer = logger.experiment
            sizes = [writer.rows] if isinstance(writer, MetricsWriter) else []
        else:
            paths = sorted(Path(logger.log_dir).glob(_EVENTS))
            sizes = [path.stat().st_size for path in paths]
        logged |= {path.name: size for path, size in zip(paths, sizes, strict=False)}
        for path in paths:
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
    return logged


def _table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=columns)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
