"""What `train.py` does: fit, test the best checkpoint once, say what the run is worth, and write its page."""

import re
import time
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.console import Console

from litlens.checkpoints.reading import read_checkpoint
from litlens.checkpoints.warm_start import initialize_from
from litlens.cli.inspection import inspect
from litlens.cli.layers import layer_table
from litlens.cli.parser import TrainingCommand
from litlens.cli.report import write_report
from litlens.cli.results import print_results, run_results, test_results, write_results
from litlens.cli.resume import keep_metrics, last_checkpoint
from litlens.cli.run_folder import checkpoint_path, removed_if_unused, write_config
from litlens.data.duplicates import shared_between_splits
from litlens.errors import UserError
from litlens.models.pretrained import check_normalization


def run(args: list[str], *, console: Console) -> None:
    """Parse and build, then train, or with `--inspect` show the data."""
    command = TrainingCommand(args)
    if command.config.inspect:
        inspect(command.datamodule, folder=Path("runs") / command.run_name, console=console)
    else:
        try:
            train(command, console=console)
        finally:
            _finish(command.trainer.loggers)


def train(command: TrainingCommand, *, console: Console) -> None:
    """Fit, test the best checkpoint once, and keep in the run folder what came out."""
    trainer, classifier, data, folder = command.trainer, command.model, command.datamodule, command.run_folder
    trial = bool(command.config.trainer.fast_dev_run)
    # Before anything is written: what cannot work leaves no run folder behind.
    with removed_if_unused(folder):
        _check_limits(command)
        if trainer.local_rank == 0:
            data.prepare_data()
            check_normalization(classifier.network, data.preprocessing)
        if classifier.init_from is not None and command.resumed is None:
            source = checkpoint_path(Path(classifier.init_from))
            fresh = initialize_from(classifier.network, classifier.class_names, source)
            console.print(f"Starting from {source}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    if command.resumed is not None:
        keep_metrics(trainer, folder=folder)
    elif trainer.is_global_zero and not trial:
        write_config(folder, command.resolved_config())
    if command.config.trainer.enable_model_summary is not False:
        console.print(layer_table(classifier))
    if command.config.trainer.precision != command.asked_precision:
        console.print(
            f"trainer.precision: this processor has no bf16 and would emulate {command.asked_precision}, many times "
            "slower: training in float32",
            soft_wrap=True,
        )
    total = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    console.print(
        f"{command.run_name}: batches of {data.batch_size} on {trainer.world_size} device(s), {total} a step in total, "
        f"precision {trainer.precision}, seed {command.config.seed_everything}\n"
        f"run folder {folder}\nlive page  tensorboard --logdir {folder.parent.parent}",
        soft_wrap=True,
    )

    start = time.monotonic()
    ckpt_path = last_checkpoint(folder) if command.resumed is not None else None
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise UserError(f"data.batch_size: {data.batch_size}: batch norm needs at least two images") from error
        if command.resumed is None or not re.search("total_steps|T_max", str(error)):
            raise
        raise UserError(
            f"--resume: the schedule of {folder} ends with its last epoch, so its length cannot change; "
            f"start a run from its weights: --model.init_from {folder}"
        ) from error
    except (MisconfigurationException, RuntimeError) as error:
        # ModelCheckpoint quotes the name, EarlyStopping puts it between backticks, ReduceLROnPlateau leaves it bare.
        missing = re.search(r"(?:ModelCheckpoint\(monitor='|conditioned on metric `?)([^'` ]+)", str(error))
        if missing is None:
            raise
        known = ", ".join(sorted(trainer.callback_metrics))
        raise UserError(f"monitor: {missing[1]} is never logged; there are {known}") from error
    except SystemExit as stop:  # what Lightning makes of Ctrl-C (lightning/pytorch/trainer/call.py)
        raise KeyboardInterrupt(*[folder] if last_checkpoint(folder).is_file() else []) from stop
    seconds = time.monotonic() - start
    if trial:
        trainer.test(classifier, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            folder.rmdir()
        console.print("fast_dev_run: every step works; nothing was kept")
        return

    if not command.checkpoint.best_model_path:
        raise UserError(
            f"trainer.max_epochs: {trainer.max_epochs}: no epoch was trained and validated to its end, so there is "
            f"nothing to test; validation comes every {trainer.check_val_every_n_epoch} epoch(s)"
        )
    best = Path(command.checkpoint.best_model_path)
    # Read here, as evaluation reads it: given to `trainer.test`, a checkpoint of Lightning's weight averaging sets the
    # weights in training, which nobody validated.
    checkpoint = read_checkpoint(best)
    classifier.load_state_dict(checkpoint["state_dict"])
    trainer.test(classifier, datamodule=data, verbose=False)
    predictions = command.collect.predictions
    assert predictions is not None  # gathered by the test
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        results = run_results(
            test_results(predictions, metrics),
            about=checkpoint["litlens"],
            parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
            epochs=trainer.current_epoch,
            seconds=seconds,
        )
        write_results(folder, predictions, results)
        print_results(results, console=console, shared=len(shared_between_splits(data)))
        page = write_report(folder, best, predictions=predictions, data=data)
        console.print(f"run folder     {folder}\nreport         {page}", soft_wrap=True)
        console.print(f"live page      tensorboard --logdir {folder.parent.parent}", soft_wrap=True)


def _check_limits(command: TrainingCommand) -> None:
    """Raise UserError where the trainer is told to leave out what the run needs, rather than when it has trained."""
    trainer = command.trainer
    if trainer.limit_test_batches == 0:
        raise UserError("trainer.limit_test_batches: 0: a run ends with its test; leave it out, or give a share")
    monitors = {"early_stopping": command.early_stopping, "model_checkpoint": command.checkpoint}
    for group, callback in monitors.items():
        monitor = callback and callback.monitor
        if trainer.limit_val_batches == 0 and monitor and monitor.endswith("/val"):
            raise UserError(
                f"trainer.limit_val_batches: 0: nothing is validated, and {group} watches {monitor}: "
                f"set {group + ': null' if group == 'early_stopping' else group + '.monitor'}"
            )
    if command.resumed is not None and trainer.max_steps > -1:
        step = read_checkpoint(last_checkpoint(command.resumed))["global_step"]
        if step < trainer.max_steps:
            # `FitLoop.restarting` takes such a run for one that stopped within its epoch, and its end comes twice.
            raise UserError(
                f"--resume: trainer.max_steps: {trainer.max_steps}: Lightning goes on exactly by epochs alone: "
                "add --trainer.max_steps=-1 --trainer.max_epochs=N"
            )


def _finish(loggers: list[Logger]) -> None:
    """Close the run of W&B, which keeps one per process: the next call in it would go on writing into this one."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        wandb.finish()
