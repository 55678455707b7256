"""Cross-validation: a run per fold in one folder, out-of-fold predictions, and a test of the best fold."""

import csv
import gc
import io
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from litlens.checkpoints.logs import open_logs
from litlens.checkpoints.reading import previous_checkpoint
from litlens.cli.parser import TrainingCommand
from litlens.cli.processes import is_first_process, is_launched, meet
from litlens.cli.results import test
from litlens.cli.run_folder import ASSIGNMENT, BEST, CONFIG, LAST, METRICS, OUT_OF_FOLD, RESULTS, write_config
from litlens.cli.train import Run, build, finished_loggers, fit_run, load_weights, test_run
from litlens.errors import UserError, quoted
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import accuracy, label_errors
from litlens.files import copy_atomically, write_atomically

LABEL_ERRORS = "label-errors.csv"
_OF_FOLD = "predictions-val.csv"
# What may differ between the folds or trials of one run, when it is resumed.
_FREE = (
    *("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "trainer.enable_"),
    *("trainer.logger", "data.num_workers", "data.on_device", "data.root", "data.folder", "checkpoint_minutes"),
    *("resume", "folds", "trials"),
)


def cross_validate(command: TrainingCommand, folder: Path, runs: list[Run], *, console: Console) -> None:
    """Train the folds that are not finished, in `folder/fold-N`, and test the best one.

    A fold is finished once its predictions are there: `evaluate.py` writes a results.json, too. `runs` holds the fold
    in training (`run_folder`).
    """
    count = command.config.folds
    for number in range(1, count + 1):
        place, first = folder / f"fold-{number}", folder / "fold-1"
        if (place / _OF_FOLD).is_file():
            continue
        begun = any(path.is_file() for path in (place / LAST, previous_checkpoint(place / LAST)))
        known = place if begun else first  # the run's images, in case others have come since
        known_splits = known if (known / ASSIGNMENT).is_file() else None
        data = command.build_data(splits_of=known_splits, fold=None if begun else number)
        runs[:] = [build(command, place, data=data, resume=begun)]
        if is_first_process() and not (folder / CONFIG).is_file():
            write_config(folder, {"folds": count, **runs[0].config})
        with finished_loggers(runs[0]):
            if number > 1:
                console.print(f"fold {number} of {count}")
            parts = fit_run(command, runs[0], console=console, brief=number > 1)
            folder = parts.folder.parent  # the first process's
            scores = _score(parts)
        console.print(
            f"fold {number} of {count}: val accuracy {scores['accuracy_val']:.4f}, loss {scores['loss_val']:.4f}, "
            f"{scores['n_val']:,} images, {scores['epochs']} epoch{'s' if scores['epochs'] != 1 else ''}"
        )
        runs.clear()
        del data, parts
        gc.collect()  # a trainer and its module refer to each other
    _test_best(command, folder, runs, console=console)


def check_folds(command: TrainingCommand) -> None:
    """Raise UserError for folds that cannot be trained, or differ from those that the run has."""
    if command.config.folds < 2:
        raise UserError(f"folds: {command.config.folds}: give 2 or more")
    check_same_settings(command, part="fold")
    if command.resumed is None:
        return
    own = str(command.resumed / CONFIG)
    numbers = {given.value for given in command.line.given if given.key == "folds"}
    if len(numbers) > 1 or not any(given.where.startswith(own) for given in command.line.given if given.key == "folds"):
        raise UserError(f"folds: {command.config.folds}: {command.resumed} keeps its number of folds: remove --folds")


def check_same_settings(command: TrainingCommand, *, part: str) -> None:
    """Raise UserError for options with which the parts of a run would not be of one kind, in folders of their own."""
    if command.config.model_checkpoint.init_args.get("dirpath"):
        raise UserError(f"model_checkpoint.dirpath: each {part} keeps its checkpoints in its own folder: remove it")
    own = str(command.resumed / CONFIG) if command.resumed else ""
    kept = [(given.key, given.value) for given in command.line.given if given.where.startswith(own)]
    for given in command.line.given:
        # A class that is given again may get other options.
        as_before = given.value in (None, []) and (given.key, given.value) in kept
        if not (given.where.startswith(own) or as_before or given.key.startswith(_FREE)):
            raise UserError(
                f"{given.where}: {given.key}: {given.value}: the {part}s of a run have the same settings: remove it, "
                f"or start a new run: --config {quoted(own)} {quoted(f'--{given.key}={given.value}')}"
            )


def _score(parts: Run) -> dict[str, Any]:
    """Predict a fold's validation images by its best checkpoint, and write predictions and results into its folder."""
    trainer, data, best = parts.trainer, parts.data, Path(parts.checkpoint.best_model_path)
    metadata = load_weights(parts.classifier, best)
    epochs, seconds = trainer.current_epoch, round(parts.last.seconds, 1)
    # Every image once, and nothing in the logs that looks like a test.
    trainer.loggers, trainer.limit_test_batches = [], 1.0
    data.test_on("val")
    predictions, found = test(trainer, parts.classifier, data, parts.collect, metadata=metadata)
    scores = {
        "accuracy_val": found["accuracy_test"],
        "loss_val": found["loss_test"],
        "f1_val": found["f1_test"],
        "n_val": len(predictions),
        "epochs": epochs,
        "seconds": seconds,
        "checkpoint": (BEST.parent / best.name).as_posix(),
        # What the checkpoint was selected by.
        "score": metadata["metrics"].get(parts.checkpoint.monitor, found["accuracy_test"]),
    }
    if trainer.is_global_zero:
        # Under a key of its own, beside which `evaluate.py` writes a test.
        write_atomically(parts.folder / RESULTS, json.dumps({"fold": scores}, indent=2) + "\n")
        predictions.save(parts.folder / _OF_FOLD)
    trainer.strategy.barrier()
    return scores


def _test_best(command: TrainingCommand, folder: Path, runs: list[Run], *, console: Console) -> None:
    """Make the folder of the folds a run of its own: with the best fold's checkpoint, which is tested."""
    places = [folder / f"fold-{number}" for number in range(1, command.config.folds + 1)]
    folds = [json.loads((place / RESULTS).read_text())["fold"] for place in places]
    options = command.config.model_checkpoint.init_args
    sign = 1 if options.get("monitor") is None or options.get("mode") == "max" else -1
    best = max(range(len(folds)), key=lambda fold: (sign * folds[fold]["score"], -folds[fold]["loss_val"]))
    runs[:] = [build(command, folder, data=command.build_data(splits_of=places[best]))]
    trainer = runs[0].trainer
    summary: dict[str, Any] = {}
    with finished_loggers(runs[0]):
        if is_first_process():
            for name, copy in ((folds[best]["checkpoint"], BEST), (ASSIGNMENT, ASSIGNMENT), (METRICS, METRICS)):
                if (places[best] / name).is_file():  # metrics.csv has a logger of its own
                    copy_atomically(places[best] / name, folder / copy)
            summary = _summary(folder, places, folds, console=console)
        if not is_launched(trainer):
            runs[0].data.prepare_data()
        meet(trainer)
        parts = replace(runs[0], folder=trainer.strategy.broadcast(folder))
        open_logs(trainer, {METRICS: sys.maxsize})
        console.print(f"fold {best + 1} is the best in validation and is tested:")
        training = {"epochs": folds[best]["epochs"], "seconds": round(sum(fold["seconds"] for fold in folds), 1)}
        more = {**training, "cross_validation": {**summary, "best_fold": best + 1, "folds": folds}}
        test_run(parts, console=console, best=parts.folder / BEST, more=more)


def _summary(folder: Path, places: list[Path], folds: list[dict[str, Any]], *, console: Console) -> dict[str, Any]:
    """Write the out-of-fold predictions and the label errors that they show; mean and deviation over the folds."""
    predictions = Predictions.joined([Predictions.load(place / _OF_FOLD) for place in places])
    predictions.save(folder / OUT_OF_FOLD)
    errors = label_errors(predictions)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "label", "predicted", "probability of label"])
    for k in errors:
        names = [predictions.class_names[of[k]] for of in (predictions.labels, predictions.predicted)]
        writer.writerow([predictions.names[k], *names, f"{math.exp(-predictions.losses[k]):.6f}"])
    write_atomically(folder / LABEL_ERRORS, text.getvalue())
    means: dict[str, Any] = {}
    for name in ("accuracy", "loss", "f1"):
        values = [fold[f"{name}_val"] for fold in folds]
        means[name] = {"mean": statistics.fmean(values), "std": statistics.stdev(values)}
    pooled = accuracy(predictions)
    said = {name: f"{value['mean']:.4f} ± {value['std']:.4f}" for name, value in means.items()}
    console.print(
        f"{len(folds)} folds     val accuracy {said['accuracy']}, loss {said['loss']}, macro F1 {said['f1']} "
        "(mean ± standard deviation)\n"
        f"out of fold    accuracy {pooled.value:.4f}, 95 % interval {pooled.low:.4f} to {pooled.high:.4f}, "
        f"{len(predictions):,} images\n"
        f"label errors   {len(errors):,} are possible: {folder / LABEL_ERRORS}"
    )
    out_of_fold = {"accuracy": pooled.value, "interval": [pooled.low, pooled.high], "n": len(predictions)}
    return {**means, "out_of_fold": out_of_fold, "label_errors": len(errors)}
