"""What `evaluate.py` does: score checkpoints on labeled images, with the same result as training to the last bit.

Several runs are compared with the first; `--robustness` also scores each on distorted images.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.callbacks.progress_bar import ImageProgressBar
from litlens.checkpoints.export import check_format, export_classifier
from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.checkpoints.reading import checkpoint_path
from litlens.checkpoints.record import is_trusted
from litlens.cli.classify import classify
from litlens.cli.command_line import read_command_line
from litlens.cli.mistakes import enough_memory, mistakes_of_values, parse
from litlens.cli.processes import follow_launcher, meet
from litlens.cli.results import print_results, seen_before, test, write_run_report
from litlens.cli.run_folder import ASSIGNMENT, BEST, config_text, run_home, run_title, write_results
from litlens.data.assignment import SplitAssignment
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.progress import progress
from litlens.errors import UserError, listed
from litlens.evaluation.distortions import (
    DISTORTIONS,
    DistortedAccuracy,
    chosen_images,
    number_of_points,
    robustness,
    robustness_figure,
)
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import write_page
from litlens.evaluation.run_comparison import compare, render_comparison
from litlens.evaluation.style import pixels
from litlens.files import write_atomically
from litlens.signals import signals

# Options that say where the files are, of which the fingerprint is independent, or how they are read.
_PLACES = ("root", "folder", "csv", "batch_size", "num_workers", "on_device", "class_names")
_SEED = 0  # of the distortions
_EXPORT_CHECKED = 32  # images


@dataclass(frozen=True)
class Scored:
    """A checkpoint's network, the data that it was scored on, and its predictions."""

    title: str
    network: nn.Module
    data: ImageDataModule
    predictions: Predictions


@enough_memory()
def run(args: list[str], *, console: Console) -> None:
    """Classify the images of a folder, or score the given checkpoints and compare them."""
    try:
        named, rest = command_parser().parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"command line: {error}") from error
    if not named.ckpt_path:
        raise UserError("--ckpt_path is required: give a run folder or a checkpoint")
    paths = [checkpoint_path(path) for path in named.ckpt_path]
    titles = [run_title(path) for path in paths]
    if len(set(titles)) < len(paths):
        raise UserError(f"--ckpt_path: {', '.join(titles)}: a run is given twice")
    if named.export is not None:
        others = {"several --ckpt_path": len(paths) > 1, "--images": named.images, "--robustness": named.robustness}
        others |= {"--split": named.split, "--output": named.output, "--accelerator": named.accelerator != "auto"}
        if other := next((name for name, given in others.items() if given), None):
            raise UserError(f"--export takes one --ckpt_path and options of its data, not {other}")
        export(paths[0], named.export, rest, trust=named.trust, console=console)
        return
    if named.images is not None:
        others = {"several --ckpt_path": len(paths) > 1, "--robustness": named.robustness, "--split": named.split}
        if other := next((name for name, given in others.items() if given), rest[0] if rest else None):
            raise UserError(f"--images takes one --ckpt_path, --accelerator and --output, not {other}")
        classify(
            paths[0],
            named.images,
            output=named.output,
            accelerator=named.accelerator,
            trust=named.trust,
            console=console,
        )
        return
    output = named.output if len(paths) == 1 else None
    options: dict[str, Any] = {"split": named.split, "output": output, "trust": named.trust, "console": console}
    options["accelerator"] = named.accelerator
    scored = [one for path in paths if (one := evaluate(path, rest, **options)) is not None]
    folder = named.output or run_home(paths[-1])
    if len(scored) > 1:
        show_comparison({one.title: one.predictions for one in scored}, scored[0].data, folder=folder, console=console)
    if scored and named.robustness:
        show_robustness({one.title: (one.network, one.data) for one in scored}, folder=folder, console=console)


def command_parser() -> argparse.ArgumentParser:
    """The options that hold for all runs; the rest is for `run_parser`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--ckpt_path", nargs="+", type=Path, default=[])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", nargs="+", type=Path)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--export", type=Path, metavar="FILE")
    parser.add_argument("--robustness", action="store_true")
    parser.add_argument("--trust", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--split", choices=("train", "val", "test", "all"))
    return parser


def run_parser() -> LightningArgumentParser:
    """The options that are parsed for each run, on top of the data module of its training."""
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    return parser


def evaluate(
    path: Path,
    args: list[str],
    *,
    split: str | None,
    output: Path | None,
    accelerator: str,
    trust: Sequence[str],
    console: Console,
) -> Scored | None:
    """Score one checkpoint and write its files into `output`, by default into its run folder.

    The run folder keeps only the results of the run's best checkpoint on its own test split. Without `split`, that
    split is scored; of other data their test split, or all of them where they have none. None on every rank but 0.
    """
    loaded, options, data, changed = _loaded(path, args, trust=trust)
    metadata = loaded.metadata
    assignment = _assignment(run_home(path) / ASSIGNMENT, checksum=metadata.get("splits"))
    kept = assignment is not None and not changed and _keep_splits(data, assignment, split=split)
    now, then = data.fingerprint(), metadata["data"]
    own = kept or now["stat"] == then["stat"] or now["content"] == then["content"] != ""
    if split is None:
        split = "test" if own or "test" in getattr(data, "given_splits", ["test"]) else "all"
    data.test_on(split)
    collect = CollectPredictions()
    with mistakes_of_values():
        trainer = Trainer(
            accelerator=accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            precision=metadata["computed_on"]["precision"],
            callbacks=[collect, *([ImageProgressBar()] if console.is_terminal else [])],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=console.is_terminal,
        )
    signals.take_over(trainer)
    meet(trainer)
    predictions, results = test(trainer, loaded.classifier, data, collect, metadata=metadata)
    if not trainer.is_global_zero:
        return None
    seen = seen_before(assignment, data, len(predictions))
    console.print(f"seen before    {_described(seen, len(predictions))}")
    console.print(f"checkpoint     {path}, epoch {metadata['epoch']}")
    if left_out := data.not_in_run:
        console.print(f"left out       {len(left_out):,} images that the run did not have: {listed(left_out)}")
    if not own or split != "test":
        console.print(f"scored on      {split}, {len(predictions):,} images")
    print_results(results, console=console, own=own and split == "test")
    if output is None:
        reason = ""
        if path != run_home(path) / BEST:
            reason = "not a run's best checkpoint"
        elif not own:
            reason = "the data differ from those of the training"
        elif split != "test":
            reason = f"scored on {split}, not on test"
        elif changed:
            reason = f"{', '.join(changed)}: differs from training, which may have seen these images"
        if reason:
            console.print(
                f"{reason}: the run folder is unchanged; --output DIR, with this run alone, keeps these results"
            )
        else:
            output = run_home(path)
    if output is not None:
        write_results(output, predictions, results | seen)
        page = write_run_report(output, path, predictions=predictions, seen=seen, data=data)
        console.print(f"report         {page}")
    loaded.classifier.to(trainer.strategy.root_device)  # Lightning moves it to the CPU after a test
    return Scored(run_title(path), loaded.classifier.network, data, predictions)


def _assignment(path: Path, *, checksum: str | None) -> SplitAssignment | None:
    """The splits of the run, where the checkpoint is in a run folder."""
    if not path.is_file():
        return None
    assignment = SplitAssignment.read(path, otherwise="remove it, and nothing is counted")
    assignment.check(checksum, path)
    return assignment


def _keep_splits(data: ImageDataModule, assignment: SplitAssignment, *, split: str | None) -> bool:
    """Use the run's splits if `data` have every image of the split that is scored, unchanged; say whether they have."""
    differences = assignment.differences({name: data.samples(name) for name in SPLITS}, data.class_names)
    scored = SPLITS if split == "all" else (split or "test",)
    if any(sample.split in scored and sample.name in differences for sample in assignment.samples):
        return False
    data.keep_splits(assignment.without(differences))
    return True


def _described(seen: dict[str, int], number: int) -> str:
    if not seen:
        return "unknown: the run has no splits.csv, or no hashes in it"
    trained_on, validated_on = seen.values()
    text = f"{trained_on:,} of {number:,} images were trained on, {validated_on:,} were in validation"
    return text + (": the accuracy is too high for new images" if trained_on + validated_on else "")


def export(path: Path, file: Path, args: list[str], *, trust: Sequence[str], console: Console) -> None:
    """Write a checkpoint's classifier for other runtimes, checked on images of its data."""
    check_format(file)
    loaded, _, data, _ = _loaded(path, args, trust=trust)
    split = next(samples for name in reversed(SPLITS) if len(samples := data.samples(name)))
    chosen = np.linspace(0, len(split) - 1, num=min(len(split), _EXPORT_CHECKED), dtype=int)
    difference = export_classifier(loaded, file, split.images.batch(split.rows[chosen]))
    console.print(f"exported       {file}: uint8 images in, probabilities out")
    console.print(f"checked        on {len(chosen)} images: probabilities differ by at most {difference:.1e}")


def _loaded(
    path: Path, args: list[str], *, trust: Sequence[str]
) -> tuple[LoadedClassifier, Any, ImageDataModule, list[str]]:
    """The classifier of a checkpoint, the options, its data set up, and the names of what the options changed."""
    loaded = load_classifier(path, trust=trust)
    metadata = loaded.metadata
    if metadata.get("config") is None:
        raise UserError(f"{path} does not say which data it was trained on: it was not written by train.py")
    options, data, changed = _parsed(args, metadata=metadata, path=path, trust=trust)
    data.normalize = metadata["preprocessing"]["normalize"]
    if data.class_names != loaded.class_names:
        known, here = listed(loaded.class_names), listed(data.class_names)
        raise UserError(f"{path} has the classes {known}; the data have {here}")
    data.prepare_data()
    data.setup("test")
    return loaded, options, data, changed


def _parsed(
    args: list[str], *, metadata: dict[str, Any], path: Path, trust: Sequence[str]
) -> tuple[Any, ImageDataModule, list[str]]:
    """The parsed options, the data module of the training with their changes, and the names of what they changed."""
    stored = metadata["config"]["data"]
    name = stored["class_path"]
    if not is_trusted(name, trust=trust):
        module = name.rpartition(".")[0]
        raise UserError(f"{path} names {name}, which is not part of litlens: if you trust it, add --trust {module}")
    parser = run_parser()
    line = read_command_line(["--config", config_text({"data": stored}), *args])
    options = parse(parser, line)
    _set_from_checkpoint(options.data, metadata, same_class=options.data.class_path == name)
    now = yaml.safe_load(parser.dump(options, skip_unset=False))["data"]["init_args"]
    changed = [
        f"data.{key}"
        for key, value in now.items()
        if key not in _PLACES and value != stored["init_args"].get(key, value)
    ]
    with mistakes_of_values():
        data = parser.instantiate(options).data
    options.num_nodes = 1
    follow_launcher(options, line.find("devices"))
    return options, data, changed


def _set_from_checkpoint(data: Any, metadata: dict[str, Any], *, same_class: bool) -> None:
    """Give the data module the classes of the checkpoint, in their order; if it is of another class, the size, too."""
    prepared = metadata["preprocessing"]
    known = {"class_names": metadata["class_names"]}
    if not same_class:
        resize, channels = prepared["resize"], len(prepared["normalize"]["mean"])
        known |= {"image_size": resize["size"], "resize_mode": resize["mode"], "channels": channels}
    for key, value in known.items():
        if key in data.init_args:
            data.init_args[key] = value


def show_comparison(runs: Mapping[str, Predictions], data: ImageDataModule, *, folder: Path, console: Console) -> None:
    """Compare every run with the first, whose data module is `data`; print a table and write comparison.html."""
    first, *others = runs
    comparisons = {name: compare(runs[first], runs[name]) for name in others}
    for name, result in comparisons.items():
        console.print(f"\n{name} against {first}")
        table = Table(show_header=False, box=None, pad_edge=False)
        for what, value in (("accuracy", result.accuracy), ("macro F1", result.f1)):
            interval = f"95 % interval {100 * value.low:+.2f} to {100 * value.high:+.2f}, paired bootstrap"
            table.add_row(what, f"{100 * value.value:+.2f} points", interval)
        only = f"correct in this run only: {len(result.only_second):,}; in the first only: {len(result.only_first):,}"
        table.add_row("McNemar's test", f"p = {result.p_value:.3g}", only)
        console.print(table, soft_wrap=False)
    page = render_comparison(runs, comparisons, image=lambda index: data.image("test", index))
    console.print(f"comparison     {write_page(folder / 'comparison.html', page)}")


def show_robustness(scored: Mapping[str, tuple[nn.Module, ImageDataModule]], *, folder: Path, console: Console) -> None:
    """Score networks on distorted images of their test splits; print a table, write robustness.json and .png.

    `scored` maps a run's name to its network and its data module, set up. Images and distortions are the same for all
    of them and at every call, and so are the files.
    """
    largest = max((data.image_size for _, data in scored.values()), key=math.prod)
    results: dict[str, list[DistortedAccuracy]] = {}
    entries: dict[str, Any] = {}
    for name, (network, data) in scored.items():
        split = data.samples("test")
        chosen = chosen_images(len(split), largest, seed=_SEED)
        points = robustness(
            network, data.preprocessing, split.images.batch(split.rows[chosen]), split.labels[chosen], seed=_SEED
        )
        results[name] = list(progress(points, description=f"Robustness of {name}", total=number_of_points()))
        entries[name] = {
            "images": len(chosen),
            "seed": _SEED,
            "points": [asdict(point) for point in results[name]],
        }
    text = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    written, image = write_atomically(folder / "robustness.json", text), folder / "robustness.png"
    Image.fromarray(pixels(robustness_figure(results))).save(image)
    counts = " or ".join(f"{count:,}" for count in sorted({entry["images"] for entry in entries.values()}))
    console.print(f"robustness     accuracy in % on {counts} test images, by distortion:")
    console.print(_robustness_table(results), soft_wrap=False)
    console.print(f"robustness     {image}, {written.name}")


def _robustness_table(results: Mapping[str, list[DistortedAccuracy]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(max_width=30, no_wrap=True, overflow="ellipsis")
    for _ in range(max(len(distortion.strengths) for distortion in DISTORTIONS.values())):
        table.add_column(justify="right", no_wrap=True)
    for name, distortion in DISTORTIONS.items():
        strengths = (f"{strength:g}" for strength in distortion.strengths)
        table.add_row(f"{name}, {distortion.unit}", *strengths, style="dim")
        for run, points in results.items():
            scores = (100 * point.accuracy.value for point in points if point.distortion == name)
            table.add_row(f"  {run}", *(f"{score:.1f}" for score in scores))
    return table
