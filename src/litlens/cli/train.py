"""What `train.py` does: fit, test the best checkpoint once, say what the run is worth, and write its page."""

import copy
import time
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger
from rich.console import Console

from litlens.checkpoints import record
from litlens.checkpoints.reading import checkpoint_path, read_checkpoint
from litlens.checkpoints.warm_start import initialize_from
from litlens.cli.checks import check_batches, check_model, check_monitors
from litlens.cli.inspection import inspect
from litlens.cli.layers import layer_table
from litlens.cli.parser import TrainingCommand
from litlens.cli.report import write_report
from litlens.cli.results import print_results, run_results, test_results, write_results
from litlens.cli.resume import keep_metrics, last_checkpoint
from litlens.cli.run_folder import removed_if_refused, write_config
from litlens.cli.upstream import upstream_mistakes
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
    with removed_if_refused(folder, kept=lambda: trainer.global_step > 0 or command.resumed is not None):
        check(command)
        start_from(command, console=console)
        classifier.record = record.check(classifier)
        for reason in classifier.record.get("undescribed", {}).values():
            console.print(f"{reason}; its checkpoint is loaded by load_classifier(path, network=…)")
        for line in record.blanked(classifier.record):
            console.print(line)
        if command.resumed is not None:
            keep_metrics(trainer, folder=folder)
        elif trainer.is_global_zero and not trial:
            write_config(folder, command.resolved_config())
        announce(command, console=console)
        start = time.monotonic()
        fit(command)
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
        page = write_report(
            folder,
            best,
            predictions=predictions,
            data=data,
            network=copy.deepcopy(classifier).cpu() if "undescribed" in checkpoint["litlens"]["model"] else None,
        )
        console.print(f"run folder     {folder}\nreport         {page}")
        console.print(f"TensorBoard    tensorboard --logdir {folder.parent.parent}")


def check(command: TrainingCommand) -> None:
    """Raise UserError for whatever this run cannot serve, rather than when it has trained."""
    trainer, classifier, data = command.trainer, command.model, command.datamodule
    check_monitors(trainer, {"early_stopping": command.early_stopping, "model_checkpoint": command.checkpoint})
    if command.resumed is not None and trainer.max_steps > -1:
        step = read_checkpoint(last_checkpoint(command.resumed))["global_step"]
        if step < trainer.max_steps:
            # `FitLoop.restarting` takes such a run for one that stopped within its epoch, and its end comes twice.
            raise UserError(
                f"--resume: trainer.max_steps: {trainer.max_steps}: Lightning goes on exactly by epochs alone: "
                "add --trainer.max_steps=-1 --trainer.max_epochs=N"
            )
    if trainer.local_rank == 0:
        data.prepare_data()
        data.setup("fit")
        check_batches(trainer, data)
        check_model(classifier, data)
        check_normalization(classifier.network, data.preprocessing)


def start_from(command: TrainingCommand, *, console: Console) -> None:
    """Read the weights that `init_from` names; a resumed run has its own."""
    classifier = command.model
    if classifier.init_from is not None and command.resumed is None:
        source = checkpoint_path(Path(classifier.init_from))
        fresh = initialize_from(classifier.network, classifier.class_names, source)
        console.print(f"initialized from {source}" + (f"; not in it: {', '.join(fresh)}" if fresh else ""))


def announce(command: TrainingCommand, *, console: Console) -> None:
    """Print the layers, the batch size, the precision and the run folder."""
    trainer, data, folder = command.trainer, command.datamodule, command.run_folder
    if command.config.trainer.enable_model_summary is not False:
        console.print(layer_table(command.model), soft_wrap=False)
    if command.config.trainer.precision != command.asked_precision:
        console.print(
            f"trainer.precision: this processor has no bf16 and would emulate {command.asked_precision}, many times "
            "slower: training in float32"
        )
    total = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    console.print(
        f"{command.run_name}: batches of {data.batch_size} on {trainer.world_size} device(s), {total} a step in total, "
        f"precision {trainer.precision}, seed {command.config.seed_everything}\n"
        f"run folder   {folder}\nTensorBoard  tensorboard --logdir {folder.parent.parent}"
    )


def fit(command: TrainingCommand) -> None:
    """Train, from the last checkpoint where a run is resumed. Ctrl-C becomes a KeyboardInterrupt with the folder."""
    trainer, folder = command.trainer, command.run_folder
    ckpt_path = last_checkpoint(folder) if command.resumed is not None else None
    try:
        with upstream_mistakes(trainer):
            trainer.fit(
                command.model,
                datamodule=command.datamodule,
                ckpt_path=ckpt_path,
                weights_only=True if ckpt_path else None,
            )
    except SystemExit as stop:  # what Lightning makes of Ctrl-C (lightning/pytorch/trainer/call.py)
        raise KeyboardInterrupt(*[folder] if last_checkpoint(folder).is_file() else []) from stop


def _finish(loggers: list[Logger]) -> None:
    """Close the run of W&B, which keeps one per process: the next call in it would go on writing into this one."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        wandb.finish()
