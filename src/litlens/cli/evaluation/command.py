"""What `evaluate.py` does: score checkpoints on the test split in a fresh process, to the last bit as training did."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from torch import nn

import litlens.data.datasets.arrays
import litlens.data.datasets.catdog
import litlens.data.datasets.fonts  # noqa: F401  (class names resolve once their modules are imported)
from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.checkpoints.reading import BEST, checkpoint_path
from litlens.checkpoints.record import is_trusted
from litlens.cli.evaluation.comparison import show_comparison
from litlens.cli.evaluation.images import label_images
from litlens.cli.mistakes import mistakes_of_values, parse
from litlens.cli.report import run_home, run_title, write_report
from litlens.cli.results import RESULTS_FILE, print_results, test_results, validation_results, write_results
from litlens.cli.run_folder import config_text
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, listed
from litlens.evaluation.predictions import Predictions

# Where the files lie, which the fingerprint sees through, and how many are read at a time.
_PLACES = ("root", "folder", "csv", "batch_size", "num_workers", "class_names")


@dataclass(frozen=True)
class Scored:
    """One checkpoint with what came out of its test."""

    title: str
    network: nn.Module
    data: ImageDataModule
    predictions: Predictions


def run(args: list[str], *, console: Console) -> None:
    """Name the images of a folder, or score every checkpoint that is named and set them side by side."""
    try:
        named, rest = command_parser().parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"command line: {error}") from error
    paths = named.ckpt_path
    if not paths:
        raise UserError("--ckpt_path is required: give a run folder or a checkpoint")
    titles = [run_title(checkpoint_path(path)) for path in paths]
    if len(set(titles)) < len(paths):
        raise UserError(f"--ckpt_path: {', '.join(titles)}: one of them is named twice")
    if named.images is not None:
        others = {"several --ckpt_path": len(paths) > 1, "--robustness": named.robustness, "--split": named.split}
        if other := next((name for name, given in others.items() if given), rest[0] if rest else None):
            raise UserError(f"--images takes one --ckpt_path and --output, not {other}")
        label_images(paths[0], named.images, output=named.output, trust=named.trust, console=console)
        return
    output = named.output if len(paths) == 1 else None
    options: dict[str, Any] = {"split": named.split, "output": output, "trust": named.trust, "console": console}
    scored = [evaluate(path, rest, **options) for path in paths]
    everywhere = [one for one in scored if one is not None]
    if not everywhere:  # of several devices, the first one speaks
        return
    folder = named.output or run_home(checkpoint_path(paths[-1]))
    if len(paths) > 1:
        runs = {one.title: one.predictions for one in everywhere}
        show_comparison(runs, everywhere[0].data, folder=folder, console=console)
    if named.robustness:
        from litlens.cli.evaluation.robustness import show_robustness

        show_robustness({one.title: (one.network, one.data) for one in everywhere}, folder=folder, console=console)


def command_parser() -> argparse.ArgumentParser:
    """The options of the command itself; what it leaves over is for the parser of each run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--ckpt_path", nargs="+", type=Path, default=[])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--robustness", action="store_true")
    parser.add_argument("--trust", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--split", choices=("train", "val", "test", "all"))
    return parser


def run_parser() -> LightningArgumentParser:
    """The options that are parsed once for every run, on top of the data module of its training."""
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--accelerator", type=str, default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    return parser


def evaluate(
    run: Path, args: list[str], *, split: str | None, output: Path | None, trust: Sequence[str], console: Console
) -> Scored | None:
    """Score one checkpoint and write its files into `output`, or where the data are the training's, its run folder.

    Without `split`, the run's own test split is scored; of other data their test split, or all of them where they
    have none. None on every device but the first.
    """
    path = checkpoint_path(run)
    loaded = load_classifier(path, trust=trust)
    metadata = loaded.metadata
    if metadata.get("config") is None:
        raise UserError(f"{path} does not say which data it was trained on: it was not written by train.py")
    options, data, changed = _parsed(args, metadata=metadata, path=path, trust=trust)
    data.normalize = metadata["preprocessing"]["normalize"]
    if data.class_names != loaded.class_names:
        known, here = listed(loaded.class_names), listed(data.class_names)
        raise UserError(f"{path} knows the classes {known}; the data have {here}")
    data.prepare_data()
    data.setup("test")
    own = _same(data.fingerprint(), metadata["data"])
    if split is None:
        split = "test" if own or "test" in getattr(data, "given_splits", ["test"]) else "all"
    data.test_on(split)
    collect = CollectPredictions()
    with mistakes_of_values():
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            precision=metadata["computed_on"]["precision"],
            use_distributed_sampler=False,
            callbacks=[collect],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=console.is_terminal,
        )
    trainer.test(loaded.classifier, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return None
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    predictions = collect.predictions
    assert predictions is not None  # gathered by the test
    results = {**validation_results(metadata), **test_results(predictions, metrics)}
    console.print(f"checkpoint     {path}, epoch {metadata['epoch']}")
    if not own or split != "test":
        console.print(f"scored on      {split}, {len(predictions):,} images")
    print_results(results, console=console, own=own and split == "test")
    folder = output
    if folder is None:
        kept = "the run folder stays as it was; see --output"
        if path != run_home(path) / BEST:
            console.print(f"not a run's best checkpoint: {kept}")
        elif not own:
            console.print(f"the data are not those of the training: {kept}")
        elif split != "test":
            console.print(f"scored on {split}, not on test: {kept}")
        elif changed:
            console.print(f"{', '.join(changed)}: not as in training, which may have seen these images: {kept}")
        else:
            folder = run_home(path)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        stored = folder / RESULTS_FILE
        before = json.loads(stored.read_text()) if stored.is_file() else {}
        write_results(folder, predictions, {**before, **results})
        page = write_report(folder, path, predictions=predictions, data=data)
        console.print(f"report         {page}")
    loaded.classifier.to(trainer.strategy.root_device)  # from where Lightning took it when the test was over
    return Scored(run_title(path), loaded.classifier.network, data, predictions)


def _parsed(
    args: list[str], *, metadata: dict[str, Any], path: Path, trust: Sequence[str]
) -> tuple[Any, ImageDataModule, list[str]]:
    """The options of the command, the data module of the training as the shell changes it, and what was changed."""
    stored = metadata["config"]["data"]
    name = stored["class_path"]
    named = {word for arg in args for word in (arg, arg.partition("=")[2])}
    if not is_trusted(name, trust=trust) and name not in named:
        raise UserError(
            f"{path} wants to build {name}, which is not part of litlens: if you trust it, name it: --data={name}"
        )
    parser = run_parser()
    options = parse(parser, ["--config", config_text({"data": stored}), *args])
    _keep_what_was_learned(options.data, metadata, same_class=options.data.class_path == name)
    now = yaml.safe_load(parser.dump(options, skip_unset=False))["data"]["init_args"]
    changed = [
        f"data.{key}"
        for key, value in now.items()
        if key not in _PLACES and value != stored["init_args"].get(key, value)
    ]
    with mistakes_of_values():
        return options, parser.instantiate(options).data, changed


def _keep_what_was_learned(data: Any, metadata: dict[str, Any], *, same_class: bool) -> None:
    """Give the data module the classes of the checkpoint, in their order; one of another class, the size as well."""
    prepared = metadata["preprocessing"]
    known = {"class_names": metadata["class_names"]}
    if not same_class:
        resize = prepared["resize"]
        known |= {"image_size": resize["size"], "resize_mode": resize["mode"]}
        known |= {"channels": len(prepared["normalize"]["mean"])}
    for key, value in known.items():
        if key in data.init_args:
            data.init_args[key] = value


def _same(now: dict[str, Any], then: dict[str, Any]) -> bool:
    return bool(now["stat"] == then["stat"] or now["content"] == then["content"])
