"""A search for the best values of some options: each trial a run in a folder inside, shared by several processes.

The study is an SQLite file, which holds numbers and JSON: nothing in it is executed. A trial takes the options that the
search's own config.yaml names, and their values only where the study has the same ranges and choices.
"""

import gc
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from litlens.checkpoints.logs import open_logs
from litlens.checkpoints.reading import previous_checkpoint
from litlens.cli.finders import set_found_values
from litlens.cli.folds import check_same_settings
from litlens.cli.mistakes import mistakes_of_values
from litlens.cli.parser import TrainingCommand
from litlens.cli.processes import started_by_launcher
from litlens.cli.run_folder import ASSIGNMENT, BEST, BEST_CONFIG, CONFIG, LAST, METRICS, write_config
from litlens.cli.search_space import Space, arguments, check_space, distributions, read_space
from litlens.cli.train import Run, build, check, finished_loggers, fit_run, test_run
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, mistake_behind, quoted
from litlens.files import copy_atomically, write_atomically

STUDY = "study.db"
_MAXIMIZE, _MINIMIZE = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
_TRIALS = 0x74726961  # separates this rng from others of the same seed
_SECONDS = 60.0  # how long a process waits for another to write


def search(command: TrainingCommand, folder: Path, runs: list[Run], *, console: Console) -> None:
    """Train the trials that are left, in `folder/trial-N`, and test the best one.

    `runs` holds the trial in training (`run_folder`). Where other processes still train trials at the end, the last one
    tests.
    """
    _check(command)
    plain = read_space(command.line)
    space = distributions(plain, command.line)
    if command.resumed is None:
        check_space(space, command.line, command.line.args)
    normalize = command.config.data.init_args.get("normalize")
    set_found_values(command, folder, console=console)
    data = _checked_data(command, folder)
    if command.resumed is None:
        data.assignment().write(folder / ASSIGNMENT)
        trials = int(command.config.trials)  # not jsonargparse's own kind
        config = command.resolved_config(data, of_network=False)  # a trial may have another size or network
        if normalize == "auto" and any(key.startswith("model.network") for key in space):
            config["data"]["init_args"]["normalize"] = normalize  # each trial has the constants of its weights
        write_config(folder, {"search": plain, "trials": trials, **config})
    args = command.line.args if command.resumed else ["--config", str(folder / CONFIG)]
    study = _open(folder, command)
    console.print(f"search in {folder}: {command.config.trials} trials of {', '.join(space)}, by {_monitor(command)}")
    while (claimed := _next(study, folder, space, command)) is not None:
        trial, lock = claimed
        with closing(lock):
            place = folder / f"trial-{trial.number}"
            line = _try(study, trial, place, [*args, *_options(trial.params, command)], runs, monitor=_monitor(command))
            console.print(f"{place.name:<9}{line}  ({', '.join(f'{k} {_short(v)}' for k, v in trial.params.items())})")
        _lock_file(place).unlink(missing_ok=True)
    running = [f"trial-{trial.number}" for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
    testing = None if running else _lock(folder / ".test.lock")
    if testing is None:
        console.print(f"other processes go on with {', '.join(running) or 'the test'}")
        return
    with closing(testing):
        _test_best(command, study, folder, args, space, runs, console=console)
    for name in (".test.lock", ".search.lock"):
        (folder / name).unlink(missing_ok=True)


def _check(command: TrainingCommand) -> None:
    """Raise UserError for options with which there is nothing to compare, or trials are not runs of one process."""
    options = command.config
    if started_by_launcher() is not None:
        raise UserError(
            "--search: a trial runs on one device: start each process alone, the second by --resume RUN_DIR"
        )
    if options.trainer.fast_dev_run:
        raise UserError("--search: trainer.fast_dev_run trains nothing that could be compared: remove it")
    if options.folds is not None:
        raise UserError("--search: it compares runs of one split: remove --folds, and cross-validate the best config")
    if options.model_checkpoint.init_args.get("monitor") is None:
        raise UserError("--search: model_checkpoint.monitor: null: name the metric that is compared")
    if command.resumed is not None:
        own = str(command.resumed / CONFIG)
        if not any(given.key.startswith("search.") and given.where.startswith(own) for given in command.line.given):
            raise UserError(f"{command.resumed} is not a search: start one by --config {quoted(own)} --search FILE")
    check_same_settings(command, part="trial")


def _checked_data(command: TrainingCommand, folder: Path) -> ImageDataModule:
    """The data of the search, set up.

    Raises UserError for a mistake that no trial is the cause of: in the trials, each would count as failed.
    """
    data = command.build_data(splits_of=command.resumed)
    parts = build(command, folder, data=data)
    if (devices := parts.trainer.world_size) > 1:
        raise UserError(f"--search: trainer.devices: {devices}: a trial runs on one device: add --devices 1")
    check(command, parts)
    return data


def _monitor(command: TrainingCommand) -> str:
    return str(command.config.model_checkpoint.init_args.monitor)


def _open(folder: Path, command: TrainingCommand) -> optuna.Study:
    """Create the study, or open it. Raises UserError where its file is damaged."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # No connection is kept: what the garbage collector has to close, Python 3.13 warns of.
    options = {"connect_args": {"timeout": _SECONDS}, "poolclass": NullPool}
    path = (folder / STUDY).resolve()
    try:
        storage = RDBStorage(f"sqlite:///{path}", engine_kwargs=options)
        maximize = command.config.model_checkpoint.init_args.mode == "max"
        return optuna.create_study(
            storage=storage,
            study_name="search",
            pruner=MedianPruner(),
            direction=_MAXIMIZE if maximize else _MINIMIZE,
            load_if_exists=True,
        )
    except DatabaseError as error:
        raise UserError(f"{path} is damaged or not a study: restore it, or start a new search") from error


def _next(
    study: optuna.Study, folder: Path, space: Space, command: TrainingCommand
) -> tuple[Trial, sqlite3.Connection] | None:
    """Claim a trial: one that a process left behind, or a new one; None where enough have been started.

    The connection is the claim: it ends with the process.
    """
    with closing(_lock(folder / ".search.lock", seconds=_SECONDS) or _busy(folder)):
        known = study.get_trials(deepcopy=False)
        for number in [trial.number for trial in known if trial.state == TrialState.RUNNING]:
            place = _lock_file(folder / f"trial-{number}")
            if (lock := _lock(place)) is None:
                continue
            frozen = study.get_trials(deepcopy=False)[number]  # its process may have ended it since
            trial = Trial(study, frozen._trial_id)  # what `ask` returns for a new one
            complete = not frozen.distributions.items() < space.items()
            if frozen.state == TrialState.RUNNING and complete:
                _check_params(frozen, space, folder)
                return trial, lock
            lock.close()
            place.unlink(missing_ok=True)
            if frozen.state == TrialState.RUNNING:  # killed within `ask`
                _fail(study, trial, "stopped before it had all values")
        number = len(known)
        if number >= command.config.trials or (lock := _lock(_lock_file(folder / f"trial-{number}"))) is None:
            return None
        # Of this trial alone, so that a search that was resumed goes on as it would have.
        seed = int(np.random.SeedSequence([_TRIALS, command.config.seed_everything, number]).generate_state(1)[0])
        study.sampler = TPESampler(seed=seed, constant_liar=True)
        with mistakes_of_values():  # choices that were edited in config.yaml
            return study.ask(space), lock


def _check_params(trial: FrozenTrial, space: Space, folder: Path) -> None:
    if trial.distributions != space:
        raise UserError(
            f"{folder / STUDY}: trial-{trial.number} has other ranges than {folder / CONFIG}: start a new search"
        )


def _lock(path: Path, *, seconds: float = 0.0) -> sqlite3.Connection | None:
    """Lock a file until the connection is closed or the process ends, on every system; None where another one has."""
    connection = sqlite3.connect(path, timeout=seconds, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return connection


def _lock_file(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _busy(folder: Path) -> Any:
    raise UserError(
        f"{folder} cannot be locked: another process has done so for {_SECONDS:g} s, or the disk has no locks"
    )


def _try(study: optuna.Study, trial: Trial, place: Path, args: list[str], runs: list[Run], *, monitor: str) -> str:
    """Train one trial, tell the study, and return a line that says how it ended."""
    begun = any(path.is_file() for path in (place / LAST, previous_checkpoint(place / LAST)))
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    pruning = Pruning(trial, monitor, reported)
    runs.clear()
    gc.collect()  # a trainer and its module refer to each other, and hold the device's memory
    try:
        command = TrainingCommand(args)
        runs.append(build(command, place, data=command.build_data(splits_of=place.parent), resume=begun))
        runs[0].trainer.callbacks.append(pruning)  # type: ignore[attr-defined]
        with finished_loggers(runs[0]):
            parts = fit_run(command, runs[0], console=Console(quiet=True), brief=True)
    except Exception as error:
        mistake = mistake_behind(error)
        if mistake is None:
            raise
        _fail(study, trial, str(mistake))
        return f"failed: {mistake}"
    epochs = parts.trainer.current_epoch
    trained = f"{epochs} epoch" + "s" * (epochs != 1)
    trial.set_user_attr("epochs", epochs)
    trial.set_user_attr("seconds", round(parts.last.seconds, 1))
    if pruning.pruned:
        study.tell(trial, state=TrialState.PRUNED)
        return f"pruned after {trained}"
    score = parts.checkpoint.best_model_score
    assert score is not None  # fit_run checks that there is a best checkpoint
    study.tell(trial, float(score))
    return f"{monitor} {float(score):.4f}, {trained}"


def _fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    trial.set_user_attr("failed", reason)
    study.tell(trial, state=TrialState.FAIL)


def _options(values: dict[str, Any], command: TrainingCommand) -> list[str]:
    """The options of a trial; a schedule that has a rate of its own (OneCycleLR) gets that of the optimizer."""
    schedule = command.config.model.init_args.get("lr_scheduler.init_args") or {}
    if "max_lr" in schedule and "model.optimizer.lr" in values and not any("lr_scheduler" in key for key in values):
        values = {**values, "model.lr_scheduler.max_lr": values["model.optimizer.lr"]}
    return arguments(values)


class Pruning(Callback):
    """Reports a metric after each epoch's validation, and ends the trial where it is behind the median of the others.

    Args:
        trial: The trial.
        monitor: The metric.
        reported: The epochs that it has been reported for, before a resume.
    """

    def __init__(self, trial: Trial, monitor: str, reported: set[int]) -> None:
        self.trial, self.monitor, self.reported = trial, monitor, reported
        self.pruned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide again where the trial was interrupted after the decision."""
        if self.reported:
            self._decide(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, once an epoch, and decide."""
        value, epoch = trainer.callback_metrics.get(self.monitor), trainer.current_epoch
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or value is None:
            return
        if epoch not in self.reported:
            self.reported.add(epoch)
            self.trial.report(float(value), step=epoch)
            self._decide(trainer)

    def _decide(self, trainer: Trainer) -> None:
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True


def _test_best(
    command: TrainingCommand,
    study: optuna.Study,
    folder: Path,
    args: list[str],
    space: Space,
    runs: list[Run],
    *,
    console: Console,
) -> None:
    """Make the folder of the search a run of its own: with the best trial's checkpoint, which is tested."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        reason = next((trial.user_attrs["failed"] for trial in trials if "failed" in trial.user_attrs), "all pruned")
        raise UserError(f"--search: none of {len(trials)} trials was completed: {reason}")
    sign = 1 if study.direction == _MAXIMIZE else -1
    best = max(complete, key=lambda trial: (sign * float(trial.value or 0.0), -trial.number))
    _check_params(best, space, folder)
    place = folder / f"trial-{best.number}"
    for name in (BEST, METRICS):
        if (place / name).is_file():  # metrics.csv has a logger of its own
            copy_atomically(place / name, folder / name)
    found = ", ".join(f"{key} {_short(value)}" for key, value in best.params.items())
    head = f"# {place.name} of {len(trials)}: {found}.\n"
    write_atomically(folder / BEST_CONFIG, head + (place / CONFIG).read_text(encoding="utf-8"))
    command = TrainingCommand([*args, *_options(best.params, command)])
    runs[:] = [build(command, folder, data=command.build_data(splits_of=folder))]
    console.print(
        f"{place.name} is the best in validation and is tested: {found}\nbest config    {folder / BEST_CONFIG}"
    )
    with finished_loggers(runs[0]):
        runs[0].data.prepare_data()
        open_logs(runs[0].trainer, {METRICS: sys.maxsize})
        more = {
            "epochs": best.user_attrs["epochs"],
            "seconds": round(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials), 1),
            "search": {
                "monitor": runs[0].checkpoint.monitor,
                "mode": runs[0].checkpoint.mode,
                "best_trial": best.number,
                "trials": [_summary(trial) for trial in trials],
            },
        }
        test_run(runs[0], console=console, best=folder / BEST, more=more)


def _summary(trial: FrozenTrial) -> dict[str, Any]:
    """A trial in plain values; the value of one that was pruned is its last."""
    values = list(trial.intermediate_values.values())
    value = trial.value if trial.value is not None else next(reversed(values), None)
    return {"state": trial.state.name.lower(), "value": value, "values": trial.params, **trial.user_attrs}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
