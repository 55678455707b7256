"""What `evaluate.py --images PATH …` does: classify images without labels, and show why."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console

from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.cli.inspection import print_list
from litlens.cli.mistakes import mistakes_of_values
from litlens.cli.run_folder import run_home, run_title
from litlens.data.decode import BadImage, read_image
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.data.progress import progress
from litlens.errors import UserError
from litlens.evaluation.html import TOP, Card, embedded_image, rendered
from litlens.evaluation.report_page import write_page
from litlens.explain.cam import cam
from litlens.explain.map_layers import NoMapError
from litlens.explain.overlay import overlay_on_original
from litlens.files import files_below, write_atomically

_SHOWN = 500
_SIDE = 150
_AT_ONCE = 16
_COLUMNS = ["name", "predicted", "probability", "second", "second_probability", "third", "third_probability"]


@dataclass
class _Classified:
    rows: list[list[str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    no_map: str | None = None


def classify(
    checkpoint: Path,
    paths: Sequence[Path],
    *,
    output: Path | None,
    accelerator: str,
    console: Console,
    trust: Sequence[str] = (),
) -> None:
    """Write predictions.csv and .jsonl and images.html of files and folders, by default in the run's folder."""
    loaded = load_classifier(checkpoint, trust=trust)
    if loaded.preprocessing is None:
        raise UserError(f"{checkpoint} has no preprocessing: it was not written by train.py")
    with mistakes_of_values():
        loaded.to(Fabric(accelerator=accelerator, devices=1).device)
    files = _listed(paths)
    title = paths[0].resolve().name + (f"-and-{len(paths) - 1}-more" if len(paths) > 1 else "")
    folder = output or run_home(checkpoint) / f"images-{title}"
    found = _Classified()
    names = list(files)
    for start in progress(range(0, len(files), _AT_ONCE), description="Classified batches"):
        batch = {name: files[name] for name in names[start : start + _AT_ONCE]}
        _classify_batch(found, loaded, loaded.preprocessing, batch)
    page = rendered(
        "labeled.html",
        cards=found.cards,
        title=f"{title}, classified by {run_title(checkpoint)}",
        classes=loaded.class_names,
        total=len(found.rows),
        unreadable=found.unreadable,
        no_map=found.no_map,
    )
    path = write_page(folder / "images.html", page)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([_COLUMNS[: max(map(len, found.rows), default=3)], *found.rows])
    write_atomically(folder / "predictions.csv", text.getvalue())
    write_atomically(folder / "predictions.jsonl", "".join(f"{json.dumps(line)}\n" for line in found.lines))
    console.print(f"{len(found.rows):,} images classified")
    if found.unreadable:
        print_list("unreadable files", [f"{name}: {reason}" for name, reason in found.unreadable], console=console)
    console.print(f"tables {folder / 'predictions.csv'}, predictions.jsonl\npage   {path}")


def _listed(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by their names: within the folder where one is given, else with the paths as they are given."""
    files: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"--images: there is no file or folder {path}")
        below = sorted(map(Path, files_below(path, key="--images"))) if path.is_dir() else [path]
        if not below:
            raise UserError(f"--images: there is no file in {path}")
        root = path if path.is_dir() else path.parent
        files |= {(file.relative_to(root) if len(paths) == 1 else file).as_posix(): file for file in below}
    return files


def _classify_batch(
    found: _Classified, loaded: LoadedClassifier, preprocessing: Preprocessing, files: dict[str, Path]
) -> None:
    prepared: dict[str, Pixels] = {}
    for name, file in files.items():
        try:
            prepared[name] = loaded.prepare(file)
        except BadImage as error:
            found.unreadable.append((name, error.reason))
            found.lines.append({"name": name, "error": error.reason})
    predicted: Any = loaded.predict(list(prepared.values()))
    best = {name: list(classes.items())[:TOP] for name, classes in zip(prepared, predicted, strict=True)}
    for name, ranking in best.items():
        found.rows.append([name, *(word for label, share in ranking for word in (label, f"{share:.6f}"))])
    found.lines += [{"name": name, "probabilities": one} for name, one in zip(prepared, predicted, strict=True)]
    shown = list(prepared)[: max(0, _SHOWN - len(found.cards))]
    if not shown:
        return
    maps: Sequence[NDArray[np.float32] | None] = [None] * len(shown)
    if found.no_map is None:
        batch = preprocessing.normalize(np.stack([prepared[name] for name in shown]))
        try:
            maps = list(cam(loaded.classifier.network, batch).maps.numpy())
        except NoMapError as error:
            found.no_map = str(error)
    for name, heat in zip(shown, maps, strict=True):
        # Read again, in its own colors: a batch of original images would take gigabytes.
        image, overlay = _shown(read_image(files[name], value_range=preprocessing.value_range), heat, preprocessing)
        found.cards.append(Card(name=name, image=image, overlay=overlay, ranking=best[name]))


def _shown(image: Pixels, heat: NDArray[np.float32] | None, preprocessing: Preprocessing) -> tuple[str, str | None]:
    """The complete image, small, and the same with the map laid over the part that the network saw.

    The map is laid over the original pixels, which are resized afterwards: the page shows what is in the file.
    """
    if heat is None:
        return embedded_image(image, side=_SIDE), None
    laid = overlay_on_original(image, heat, *preprocessing.resize.boxes((image.shape[0], image.shape[1])))
    return embedded_image(image, side=_SIDE, quality=72), embedded_image(laid, side=_SIDE, quality=72)
