"""What `evaluate.py` does: score checkpoints on the test split in a fresh process, to the last bit as training did."""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

import litlens.data.sets.arrays
import litlens.data.sets.catdog
import litlens.data.sets.fonts  # noqa: F401  (class names resolve once their modules are imported)
from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.checkpoints.classifier import load_classifier
from litlens.cli.mistakes import parse
from litlens.cli.results import RESULTS_FILE, print_results, test_results, write_results
from litlens.cli.run_folder import checkpoint_path
from litlens.data.module import ImageDataModule
from litlens.errors import UserError


def run(args: list[str], *, console: Console) -> None:
    """Score every checkpoint that is named."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--ckpt_path", nargs="+", type=Path, default=[])
    named, rest = first.parse_known_args(args)
    if not named.ckpt_path:
        raise UserError("--ckpt_path RUN_DIR is missing: random weights are never scored")
    for path in named.ckpt_path:
        evaluate(path, rest, console=console)


def evaluate(run: Path, args: list[str], *, console: Console) -> None:
    """Score one checkpoint; where the data are those of the training, its run folder gets the files again."""
    path = checkpoint_path(run)
    loaded = load_classifier(path)
    about = loaded.about
    if about.get("config") is None:
        raise UserError(f"{path} does not say which data it was trained on: it was not written by train.py")
    options, data = _parsed(args, config=about["config"])
    data.normalize = {"mean": about["preprocessing"]["mean"], "std": about["preprocessing"]["std"]}
    if data.class_names != loaded.class_names:
        known, here = _some(loaded.class_names), _some(data.class_names)
        raise UserError(f"{path} knows the classes {known}; the data have {here}")
    collect = CollectPredictions()
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        precision=about["computed_on"]["precision"],
        use_distributed_sampler=False,
        callbacks=[collect],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=console.is_terminal,
    )
    trainer.test(loaded.classifier, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert collect.predictions is not None  # gathered by the test
    results = {"accuracy_val": about["metrics"]["accuracy/val"], **test_results(collect.predictions, metrics)}
    console.print(f"checkpoint     {path}, epoch {about['epoch']}", soft_wrap=True)
    print_results(results, console=console)
    if not _same(data.fingerprint(), about["data"]):
        console.print("the data are not those of the training: the run folder stays as it was")
    elif run.is_dir():
        stored = run / RESULTS_FILE
        before = json.loads(stored.read_text()) if stored.is_file() else {}
        write_results(run, collect.predictions, {**before, **results})


def _parsed(args: list[str], *, config: dict[str, Any]) -> tuple[Any, ImageDataModule]:
    """The options of the command, and the data module of the training with what the shell changes in it."""
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--accelerator", type=str, default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    options = parse(parser, ["--config", yaml.safe_dump({"data": config["data"]}), *args])
    return options, parser.instantiate(options).data


def _same(now: dict[str, Any], then: dict[str, Any]) -> bool:
    return bool(now["stat"] == then["stat"] or now["content"] == then["content"])


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)})" if len(names) > 5 else "")
