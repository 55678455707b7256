"""What `evaluate.py --images DIR` does: classify images without labels, and show why."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.cli.inspection import print_list
from litlens.cli.run_folder import run_home, run_title
from litlens.data.decode import BadImage, read_image
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.data.progress import progress
from litlens.errors import UserError
from litlens.evaluation.html import Card, embedded_image, ranking, rendered
from litlens.evaluation.report_page import write_page
from litlens.explain.cam import cam
from litlens.explain.map_layers import NoMapError
from litlens.explain.overlay import overlay_on_original
from litlens.files import is_system_file, write_atomically

_SHOWN = 500
_SIDE = 150
_AT_ONCE = 16
_COLUMNS = ["name", "predicted", "probability", "second", "second_probability", "third", "third_probability"]


@dataclass
class _Classified:
    rows: list[list[str]] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    no_map: str | None = None


def classify(
    checkpoint: Path, images: Path, *, output: Path | None, console: Console, trust: Sequence[str] = ()
) -> None:
    """Write predictions.csv and images.html of every image under a folder, into `output` or the run's folder."""
    loaded = load_classifier(checkpoint, trust=trust)
    if loaded.preprocessing is None:
        raise UserError(f"{checkpoint} has no preprocessing: it was not written by train.py")
    if not images.is_dir():
        raise UserError(f"--images: there is no folder {images}")
    files = sorted(path for path in images.rglob("*") if path.is_file() and not _is_hidden(path, images))
    if not files:
        raise UserError(f"--images: there is no file in {images}")
    folder = output or run_home(checkpoint) / f"images-{images.resolve().name}"
    found = _Classified()
    for start in progress(range(0, len(files), _AT_ONCE), description="Classified batches"):
        _classify_batch(found, loaded, loaded.preprocessing, images, files[start : start + _AT_ONCE])
    page = rendered(
        "labelled.html",
        cards=found.cards,
        title=f"{images.resolve().name}, classified by {run_title(checkpoint)}",
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
    console.print(f"{len(found.rows):,} images classified")
    if found.unreadable:
        print_list("unreadable files", [f"{name}: {reason}" for name, reason in found.unreadable], console=console)
    console.print(f"table  {folder / 'predictions.csv'}\npage   {path}")


def _classify_batch(
    found: _Classified, loaded: LoadedClassifier, preprocessing: Preprocessing, images: Path, files: list[Path]
) -> None:
    def read(name: str, *, channels: int | None) -> Pixels:
        return read_image(images / name, name=name, channels=channels, value_range=preprocessing.value_range)

    prepared: dict[str, Pixels] = {}
    for name in (file.relative_to(images).as_posix() for file in files):
        try:
            prepared[name] = preprocessing.resize(read(name, channels=preprocessing.channels))
        except BadImage as error:
            found.unreadable.append((name, error.reason))
    if not prepared:
        return
    batch = preprocessing.normalize(np.stack(list(prepared.values())))
    with torch.inference_mode():
        probabilities = loaded.classifier(batch).softmax(dim=1).numpy()
    rankings = {name: ranking(row, loaded.class_names) for name, row in zip(prepared, probabilities, strict=True)}
    for name, best in rankings.items():
        found.rows.append([name, *(word for label, share in best for word in (label, f"{share:.6f}"))])
    room = _SHOWN - len(found.cards)
    if room <= 0:
        return
    maps: Sequence[NDArray[np.float32] | None] = [None] * len(prepared)
    if found.no_map is None:
        try:
            maps = list(cam(loaded.classifier.network, batch).maps.numpy())
        except NoMapError as error:
            found.no_map = str(error)
    for (name, best), heat in list(zip(rankings.items(), maps, strict=True))[:room]:
        # Read again, in its own colors: a batch of original images would take gigabytes.
        image, overlay = _shown(read(name, channels=None), heat, preprocessing)
        found.cards.append(Card(name=name, image=image, overlay=overlay, ranking=best))


def _shown(image: Pixels, heat: NDArray[np.float32] | None, preprocessing: Preprocessing) -> tuple[str, str | None]:
    """The complete image, small, and the same with the map laid over the part that the network saw.

    The map is laid over the original pixels, which are resized afterwards: the page shows what is in the file.
    """
    if heat is None:
        return embedded_image(image, side=_SIDE), None
    laid = overlay_on_original(image, heat, *preprocessing.resize.boxes((image.shape[0], image.shape[1])))
    return embedded_image(image, side=_SIDE, quality=72), embedded_image(laid, side=_SIDE, quality=72)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") or is_system_file(part) for part in path.relative_to(folder).parts)
