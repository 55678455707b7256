"""What `train.py` does: fit, test the best checkpoint once, print the results, and write the page."""

import copy
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.callbacks.finite_loss import FiniteLoss, NotFiniteError
from litlens.callbacks.progress_bar import ImageProgressBar
from litlens.callbacks.random_state import RandomState
from litlens.callbacks.run_metadata import Provenance
from litlens.callbacks.tensorboard import tensorboard_command
from litlens.checkpoints import record
from litlens.checkpoints.durable import write_durably
from litlens.checkpoints.last import LastCheckpoint, Newest, newest_checkpoint
from litlens.checkpoints.logs import open_logs
from litlens.checkpoints.provenance import versions
from litlens.checkpoints.reading import checkpoint_path, read_checkpoint
from litlens.checkpoints.warm_start import initialize_from
from litlens.cli.checks import (
    check_batches,
    check_callbacks,
    check_checkpointing,
    check_model,
    check_monitors,
    check_sync_batchnorm,
)
from litlens.cli.finders import set_found_values
from litlens.cli.inspection import inspect, layer_table
from litlens.cli.mistakes import missing_metrics, mistakes_of_values, out_of_memory
from litlens.cli.parser import TrainingCommand
from litlens.cli.processes import follow_launcher, is_launched, meet
from litlens.cli.results import print_results, seen_before, test, write_run_report
from litlens.cli.resume import Resumption, check_resumption, check_splits
from litlens.cli.run_folder import (
    ASSIGNMENT,
    BEST,
    LAST,
    new_run_folder,
    parent_run,
    removed_if_refused,
    run_path,
    write_config,
    write_results,
)
from litlens.data.duplicates import shared_between_splits
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, import_extra, listed
from litlens.models.classifier import ImageClassifier
from litlens.signals import signals


@dataclass(frozen=True)
class Run:
    """What one training consists of, as its command line describes it."""

    folder: Path
    trainer: Trainer
    classifier: ImageClassifier
    data: ImageDataModule
    config: dict[str, Any]
    collect: CollectPredictions
    checkpoint: ModelCheckpoint
    last: LastCheckpoint
    early_stopping: EarlyStopping | None
    newest: Newest | None  # the checkpoint that a run resumes from


def run(args: list[str], *, console: Console) -> None:
    """Parse and build, then train, or with `--inspect` show the data."""
    # It uses this module.
    from litlens.cli.folds import check_folds, cross_validate

    command = TrainingCommand(args)
    if command.config.inspect:
        data = command.build_data(splits_of=command.resumed)
        inspect(data, folder=Path("runs") / command.run_name, console=console)
        return
    asked, given = command.asked_precision, command.config.trainer.precision
    if given != asked:
        reason = "is emulated here, many times slower" if given == "32-true" else "is for GPUs"
        console.print(f"trainer.precision: {asked} {reason}: training in {given}")
    check_checkpointing(command.config)
    if command.config.search is None and command.line.find("trials") is not None:
        raise UserError(f"--trials: {command.line.last('trials')}: only a search has trials: add --search FILE")
    in_folds = command.config.folds is not None and not command.config.trainer.fast_dev_run
    if in_folds:
        check_folds(command)
    with run_folder(command) as (folder, runs):
        if command.config.search is not None:
            import_extra("optuna", extra="search", needed_by="--search")
            from litlens.cli.search import search

            search(command, folder, runs, console=console)
            return
        set_found_values(command, folder, console=console)
        if in_folds:
            cross_validate(command, folder, runs, console=console)
            return
        runs.append(build(command, folder, resume=command.resumed is not None))
        with finished_loggers(runs[-1]):
            test_run(fit_run(command, runs[-1], console=console), console=console)


@contextmanager
def run_folder(command: TrainingCommand) -> Iterator[tuple[Path, list[Run]]]:
    """The folder that a command writes into, and a list for the run that it builds and trains there.

    A new folder is removed where an error comes before the first step of that run. Of several runs, in folders inside,
    the list holds the one in training; the folder stays where another has a checkpoint.
    """
    runs: list[Run] = []

    def kept() -> bool:
        # A run has a checkpoint from step 0 on.
        others = {path.parents[1] for path in folder.glob(f"*/{LAST}")} - {run.folder for run in runs}
        return bool(command.resumed or others or any(run.trainer.global_step for run in runs))

    signals.hold()  # until what removes the folder knows of it
    folder = command.resumed or new_run_folder(command.run_name)
    with removed_if_refused(folder, kept=kept):
        signals.release()
        signals.run = folder
        yield folder, runs


def build(command: TrainingCommand, folder: Path, *, data: ImageDataModule | None = None, resume: bool = False) -> Run:
    """Build data module, classifier and trainer, with the callbacks that correctness needs.

    `data` are from `command.build_data`, right before. `resume` is whether the run in `folder` has been trained before:
    it keeps its splits, and goes on from its newest checkpoint.
    """
    data = data or command.build_data(splits_of=folder if resume else None)
    config_of_run = in_run_folder(command.config, folder)
    follow_launcher(config_of_run.trainer, command.line.find("trainer.devices"))
    built = command.build(config_of_run, data)
    config = command.resolved_config(data)
    collect = CollectPredictions()
    # `trainer.callbacks` replaces what is drawn, and nothing else.
    needed: list[Callback] = [RandomState(), FiniteLoss(), collect, Provenance(config)]
    last = LastCheckpoint(folder, every=timedelta(minutes=command.config.checkpoint_minutes))
    own = [*needed, built.model_checkpoint, last]
    if built.early_stopping is not None:
        own.append(built.early_stopping)
    chosen = built.trainer.callbacks or []
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if built.trainer.max_time is not None:
        with mistakes_of_values():
            # The one that Lightning makes ends a run within an epoch, whose rest a resumed run would never see.
            chosen = [*chosen, Timer(built.trainer.max_time, interval="epoch")]
    chosen = _latest([callback for callback in chosen if not isinstance(callback, tuple(map(type, needed)))])
    check_callbacks(chosen)
    # Before the others, which log what it restores.
    resumption = [Resumption(config, folder=folder)] if resume else []
    if built.trainer.enable_progress_bar and not any(isinstance(callback, ProgressBar) for callback in chosen):
        own.append(ImageProgressBar())
    settings = built.trainer.as_dict() | {"max_time": None}
    settings["profiler"] = settings["profiler"] or _NoProfiler()
    if not torch.cuda.is_available():
        # Lightning sets it to 1: torch's optimizers would search the disk for NVIDIA's library in every step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    with mistakes_of_values():
        settings["callbacks"] = [*resumption, *chosen, *own]
        # In place of Lightning's summary the command prints `layer_table`.
        trainer = Trainer(**settings | {"enable_model_summary": False})
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            # Lightning passes an option that W&B has removed, and W&B warns of it in every run.
            logger._wandb_init.pop("anonymous", None)
    write_durably(trainer)
    signals.take_over(trainer)
    newest = newest_checkpoint(folder) if resume else None
    parts = (built.model, data, config, collect, built.model_checkpoint, last, built.early_stopping, newest)
    return Run(folder, trainer, *parts)


class _NoProfiler(PassThroughProfiler):
    """Lightning profiles each hook of each callback, about 140 a step, by a generator unless `profile` is this."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Profile nothing."""
        return _NOTHING


_NOTHING = nullcontext()


def _latest(callbacks: list[Callback]) -> list[Callback]:
    """Of callbacks of one class that have a state, only the last, as of values: Lightning refuses two."""
    stateful = [callback for callback in callbacks if is_overridden("state_dict", callback, parent=Callback)]
    latest = {callback.state_key: callback for callback in stateful}
    return [callback for callback in callbacks if latest.get(callback.state_key, callback) is callback]


def in_run_folder(config: Namespace, folder: Path) -> Namespace:
    """A copy of the configuration whose loggers and checkpoints are in the run folder.

    config.yaml shows the experiment without the places of this run: it can be trained again.
    """
    config = config.clone()
    checkpoint, options = config.model_checkpoint.init_args, config.trainer
    checkpoint.dirpath = checkpoint.dirpath or str((folder / BEST).parent)
    for logger in options.logger if isinstance(options.logger, list) else [options.logger]:
        if not hasattr(logger, "class_path"):  # a truth value
            continue
        if logger.class_path.endswith("WandbLogger"):
            # W&B creates a folder of its own inside, and shows the run under its name and time. The path is absolute
            # since its service stays in the folder that the process was in when its first run began.
            logger.init_args.save_dir = str(folder.resolve())
            logger.init_args.name = logger.init_args.name or run_path(folder)
        elif "save_dir" in logger.init_args:
            places = {"save_dir": str(folder.parent), "name": folder.name, "version": ""}
            for key, value in places.items():
                logger.init_args[key] = value
    options.default_root_dir = str(folder)
    if options.enable_progress_bar is None:  # in a file, a bar is one line of 30 kB
        options.enable_progress_bar = sys.stdout.isatty()
    return config


def fit_run(command: TrainingCommand, parts: Run, *, console: Console, brief: bool = False) -> Run:
    """Check a run, write its config and splits into its folder, and fit it.

    Returns the run with the folder of the first process. `brief` leaves out what an earlier run in the same command has
    printed.
    """
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    if is_launched(trainer):
        meet(trainer)
    check(command, parts)
    meet(trainer)
    folder = trainer.strategy.broadcast(parts.folder)
    parts = replace(parts, folder=folder)
    start_from(parts, console=console)
    classifier.record = record.check(classifier)
    for reason in classifier.record.get("undescribed", {}).values():
        console.print(f"{reason}; load its checkpoint by load_classifier(path, network=…)")
    for line in record.omitted_arguments(classifier.record):
        console.print(line)
    if parts.newest is not None:
        open_logs(trainer, parts.newest.logged)
    elif trainer.is_global_zero and not is_dry(trainer):
        data.assignment().write(folder / ASSIGNMENT)
        write_config(folder, parts.config)
        open_logs(trainer)
    announce(command, parts, console=console, brief=brief)
    fit(parts)
    if not (is_dry(trainer) or parts.checkpoint.best_model_path):
        raise UserError(
            f"trainer.max_epochs: {trainer.max_epochs}: no epoch was trained and validated, so there is no "
            f"checkpoint to test: give more; validation runs every {trainer.check_val_every_n_epoch} epoch(s)"
        )
    return parts


def test_run(  # not one of pytest
    parts: Run,
    *,
    console: Console,
    best: Path | None = None,  # noqa: PT028
    more: Mapping[str, Any] | None = None,  # noqa: PT028
) -> None:
    """Test the best checkpoint of a run once, and write the results and the page into its folder.

    `best` is that checkpoint where the run was trained elsewhere; `more` are results besides those of this function.
    """
    trainer, classifier, data, folder = parts.trainer, parts.classifier, parts.data, parts.folder
    if is_dry(trainer):
        trainer.test(classifier, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            folder.rmdir()
        console.print("fast_dev_run: training, validation and test work; nothing was written")
        return
    best = best or Path(parts.checkpoint.best_model_path)
    metadata = load_weights(classifier, best)
    predictions, metrics = test(trainer, classifier, data, parts.collect, metadata=metadata)
    if trainer.is_global_zero:
        seen = seen_before(data.assignment(), data, len(predictions))
        results = {
            "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
            "epochs": trainer.current_epoch,
            "seconds": round(parts.last.seconds, 1),
            **metrics,
            **seen,
            "seed": metadata["seed"],
            "versions": versions(),
            "hardware": metadata["computed_on"]["hardware"],
            "date": date.today().isoformat(),
            **(more or {}),
        }
        write_results(folder, predictions, results)
        print_results(results, console=console, shared=len(shared_between_splits(data)))
        network = copy.deepcopy(classifier).cpu() if "undescribed" in metadata["model"] else None
        page = write_run_report(folder, best, predictions=predictions, seen=seen, data=data, network=network)
        console.print(f"run folder     {folder}\nreport         {page}")
        if shown := tensorboard_command(trainer, folder.parent.parent):
            console.print(f"TensorBoard    {shown}")


def check(command: TrainingCommand, parts: Run) -> None:
    """Raise UserError now for whatever would fail only after the training."""
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    check_monitors(trainer, {"early_stopping": parts.early_stopping, "model_checkpoint": parts.checkpoint})
    if parts.newest is not None:
        check_resumption(trainer, parts.newest, parts.config)
        check_splits(parts.newest, parts.folder)
    check_sync_batchnorm(trainer, classifier, asked=bool(command.config.trainer.sync_batchnorm))
    if trainer.local_rank == 0:
        data.prepare_data()
        data.setup("fit")
        check_batches(trainer, data)
        check_model(classifier, data)


def load_weights(classifier: ImageClassifier, path: Path) -> dict[str, Any]:
    """Load a checkpoint's weights, as evaluation does it, and return what it says of itself (`litlens`).

    From a checkpoint of Lightning's weight averaging, `trainer.test` would take the weights in training, which were not
    validated.
    """
    checkpoint = read_checkpoint(path)
    classifier.load_state_dict(checkpoint["state_dict"])
    metadata: dict[str, Any] = checkpoint["litlens"]
    return metadata


def is_dry(trainer: Trainer) -> bool:
    """Whether the trainer tries one batch of everything and writes nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector


def start_from(parts: Run, *, console: Console) -> None:
    """Load the weights that `init_from` names; a resumed run has its own."""
    classifier = parts.classifier
    if classifier.init_from is not None and parts.newest is None:
        source = checkpoint_path(Path(classifier.init_from))
        fresh = initialize_from(classifier.network, classifier.class_names, source)
        console.print(f"initialized from {source}" + (f"; newly initialized: {', '.join(fresh)}" if fresh else ""))


def announce(command: TrainingCommand, parts: Run, *, console: Console, brief: bool) -> None:
    """Print the layers, the batch size, the precision and the run folder."""
    trainer, data, folder = parts.trainer, parts.data, parent_run(parts.folder)
    if parts.newest is not None and parts.newest.note:
        console.print(parts.newest.note)
    if left_out := data.not_in_run:
        console.print(f"{len(left_out):,} images that the run did not have are left out: {listed(left_out)}")
    if parts.newest is not None and parts.newest.devices not in (None, trainer.world_size):
        console.print(
            f"trained on {parts.newest.devices} device(s) until step {parts.newest.step}, now on {trainer.world_size}: "
            "the last bits will differ from those of an uninterrupted run"
        )
    if brief or not trainer.is_global_zero:  # another process of a machine has not set its data up yet
        return
    if command.config.trainer.enable_model_summary is not False:
        console.print(layer_table(parts.classifier), soft_wrap=False)
    if command.automatic:
        console.print(command.automatic)
    total = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    layout = "channels_last" if parts.classifier.channels_last else "contiguous"
    console.print(
        f"batches of {data.batch_size} on {trainer.world_size} device(s), {total} per step, {_device(trainer)}, "
        f"precision {trainer.precision}, {layout}, {_images(parts)}, seed {command.config.seed_everything}\n"
        f"run folder   {folder}"
    )
    if shown := tensorboard_command(trainer, folder.parent.parent):
        console.print(f"TensorBoard  {shown}")


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _images(parts: Run) -> str:
    """Where training images come from."""
    if getattr(parts.classifier, "frozen_layers", lambda epoch: None)(0) is not None:
        return "cached features"
    workers, held = parts.data.fetching("train", parts.trainer.strategy.root_device)
    return "images on the device" if held else f"images from {workers} worker{'s' * (workers != 1)}"


def fit(parts: Run) -> None:
    """Train, from the last checkpoint where a run is resumed."""
    ckpt_path = parts.newest.path if parts.newest is not None else None
    try:
        with missing_metrics(parts.trainer), out_of_memory(parts.trainer, parts.data):
            parts.trainer.fit(
                parts.classifier,
                datamodule=parts.data,
                ckpt_path=ckpt_path,
                weights_only=True if ckpt_path else None,
            )
    except NotFiniteError as error:
        if error.step is None:
            raise
        seen = f"litlens.replay({str(parts.folder)!r}, {error.step}) returns the step's images"
        raise NotFiniteError(f"{error}; {seen}", error.step) from error


@contextmanager
def finished_loggers(parts: Run) -> Iterator[None]:
    """Finish the run of W&B at the end of the block: it keeps one per process, and would go on with the next run."""
    has_run = any(isinstance(logger, WandbLogger) for logger in parts.trainer.loggers)
    try:
        yield
    finally:
        if has_run:
            import wandb

            wandb.finish()
