"""A run's folder, `runs/NAME/VERSION/`: the paths in it, and how the first process alone creates and writes it."""

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from litlens.checkpoints.reading import BEST as BEST
from litlens.checkpoints.reading import LAST as LAST
from litlens.cli.processes import is_first_process
from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions
from litlens.files import write_atomically
from litlens.signals import signals

# Every path in a run folder, with BEST, the checkpoint that is tested, and LAST, the newest state of the training.
CONFIG = "config.yaml"
BEST_CONFIG = "best.yaml"  # of a search: the configuration of its best trial
ASSIGNMENT = "splits.csv"
METRICS = "metrics.csv"  # written by Lightning's CSVLogger, which names it
PREDICTIONS = "predictions-test.csv"
OUT_OF_FOLD = "predictions-out-of-fold.csv"
RESULTS = "results.json"
REPORT = "report.html"

_CURVES = ("loss/train", "loss/val", "accuracy/train", "accuracy/val")


def new_run_folder(name: str, *, runs: Path = Path("runs")) -> Path:
    """Create `runs/NAME/VERSION`, VERSION a time stamp; two runs that start in the same second get two folders.

    Every process but the first gets a path that does not exist, and writes nothing.
    """
    if not is_first_process():
        return runs / name / "unused"
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in itertools.count():
        folder = runs / name / (stamp if attempt == 0 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create the run folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def removed_if_refused(folder: Path, *, kept: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Remove a new run folder where it ends before `kept` says that something in it is worth keeping."""

    def remove() -> None:
        if kept() or not is_first_process():
            return
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the folder of another run's
            folder.parent.rmdir()
            folder.parents[1].rmdir()

    signals.before_exit = remove
    try:
        yield
    except BaseException:
        remove()
        raise
    finally:
        signals.before_exit = lambda: None


def run_home(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to, or the folder of a file that is not in one."""
    folder = checkpoint.parent
    return folder.parent if folder.name == BEST.parent.name else folder


def parent_run(folder: Path) -> Path:
    """The run that a folder in it, of a fold say, belongs to; other run folders are returned as they are."""
    return folder.parent if (folder.parent / CONFIG).is_file() else folder


def run_path(folder: Path) -> str:
    """`NAME/VERSION` of a run folder, or `NAME/VERSION/fold-1`."""
    inside = len(folder.parts) - len(parent_run(folder).parts)
    return "/".join(folder.parts[-2 - inside :])


def run_title(checkpoint: Path) -> str:
    """The `run_path` of the run that a checkpoint belongs to, or the name of a file that is not in a run folder."""
    home = run_home(checkpoint).resolve()
    if checkpoint.resolve().parent == home:
        return checkpoint.name
    return run_path(home) + ("" if checkpoint.name == BEST.name else f" ({checkpoint.stem})")


class _Dumper(yaml.SafeDumper):
    """Quotes what jsonargparse would read as a number: to YAML 1.1 `1e3` is a string, to jsonargparse it is 1000.0."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9_]*(?:[eE][-+]?[0-9]+)?(?::[0-5]?[0-9])*\.?[0-9_]*$"),
    list("-+0123456789."),
)


def config_text(config: dict[str, Any]) -> str:
    """A configuration as YAML that jsonargparse reads back unchanged; in ASCII, since file names need not be UTF-8."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml in one step."""
    write_atomically(folder / CONFIG, config_text(config))


def write_results(folder: Path, predictions: Predictions, results: dict[str, Any]) -> None:
    """Write predictions-test.csv and results.json, each in one step; other keys of an earlier results.json stay."""
    path = folder / RESULTS
    before = json.loads(path.read_text()) if path.is_file() else {}
    predictions.save(folder / PREDICTIONS)
    write_atomically(path, json.dumps({**before, **results}, indent=2) + "\n")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Loss and accuracy of training and validation per epoch, from metrics.csv; empty where there is none."""
    epochs: dict[int, dict[str, float]] = {}
    path = folder / METRICS
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if values := {name: float(row[name]) for name in _CURVES if row.get(name)}:
                    epochs.setdefault(int(row["epoch"]), {"epoch": int(row["epoch"])}).update(values)
    return [epochs[epoch] for epoch in sorted(epochs)]
