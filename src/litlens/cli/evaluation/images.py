"""What `evaluate.py --images DIR` does: name the images of a folder, and show why."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.checkpoints.reading import checkpoint_path
from litlens.cli.report import run_home, run_title
from litlens.data.decode import BadImage, read_image
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.errors import UserError
from litlens.evaluation.html import Card, embedded_image, ranking
from litlens.evaluation.report_page import render_labelled, write_page
from litlens.explain.cam import cam
from litlens.explain.map_layers import NoMapError
from litlens.explain.overlay import overlay_on_photo
from litlens.files import write_atomically

_SHOWN = 500
_SIDE = 150
_AT_ONCE = 16
_LISTED = 10  # unreadable files that the terminal names
_COLUMNS = ["name", "predicted", "probability", "second", "second_probability", "third", "third_probability"]


@dataclass
class _Labelled:
    rows: list[list[str]] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    no_map: str | None = None


def label_images(run: Path, images: Path, *, output: Path | None, console: Console, trust: Sequence[str] = ()) -> None:
    """Write predictions.csv and images.html of every image under a folder, into `output` or the run's folder."""
    checkpoint = checkpoint_path(run)
    loaded = load_classifier(checkpoint, trust=trust)
    if loaded.preprocessing is None:
        raise UserError(f"{checkpoint} does not say how images are prepared: it was not written by train.py")
    if not images.is_dir():
        raise UserError(f"--images: there is no folder {images}")
    files = sorted(path for path in images.rglob("*") if path.is_file() and not _hidden(path, images))
    if not files:
        raise UserError(f"--images: there is no file in {images}")
    folder = output or run_home(checkpoint) / f"images-{images.resolve().name}"
    found = _Labelled()
    starts = range(0, len(files), _AT_ONCE)
    for start in track(starts, "Naming images", console=console, transient=True, disable=not console.is_terminal):
        _label_batch(found, loaded, images, files[start : start + _AT_ONCE])
    page = render_labelled(
        found.cards,
        title=f"{images.resolve().name}, named by {run_title(checkpoint)}",
        classes=loaded.class_names,
        total=len(found.rows),
        unreadable=found.unreadable,
        no_map=found.no_map,
    )
    path = write_page(folder / "images.html", page)
    _write_csv(folder / "predictions.csv", found.rows)
    console.print(f"{len(found.rows):,} images named")
    if found.unreadable:
        console.print(f"{len(found.unreadable):,} unreadable files:")
        for name, reason in found.unreadable[:_LISTED]:
            readable = name.encode(errors="replace").decode()
            console.print(f"  {readable}: {reason}")
        if len(found.unreadable) > _LISTED:
            console.print(f"  and {len(found.unreadable) - _LISTED:,} more: see the page")
    console.print(f"table  {folder / 'predictions.csv'}\npage   {path}")


def _label_batch(found: _Labelled, loaded: LoadedClassifier, images: Path, files: list[Path]) -> None:
    preprocessing = loaded.preprocessing
    assert preprocessing is not None
    prepared: dict[str, Pixels] = {}
    for file in files:
        name = file.relative_to(images).as_posix()
        try:
            prepared[name] = preprocessing.resize(
                read_image(file, name=name, channels=preprocessing.channels, value_range=preprocessing.value_range)
            )
        except BadImage as error:
            found.unreadable.append((name, error.reason))
    if not prepared:
        return
    batch = preprocessing.normalize(np.stack(list(prepared.values())))
    with torch.inference_mode():
        probabilities = loaded.classifier(batch).softmax(dim=1).numpy()
    rankings = [ranking(row, loaded.class_names) for row in probabilities]
    for name, best in zip(prepared, rankings, strict=True):
        found.rows.append([name, *(word for label, share in best for word in (label, f"{share:.6f}"))])
    room = _SHOWN - len(found.cards)
    if room <= 0:
        return
    maps: Iterator[NDArray[np.float32] | None] = iter([None] * len(prepared))
    if found.no_map is None:
        try:
            maps = iter(cam(loaded.classifier.network, batch).maps.numpy())
        except NoMapError as error:
            found.no_map = str(error)
    for name, best, heat in list(zip(prepared, rankings, maps, strict=True))[:room]:
        # Read again: a batch of whole photos would take gigabytes.
        small, over = _shown(
            read_image(images / name, name=name, value_range=preprocessing.value_range), heat, preprocessing
        )
        found.cards.append(Card(name=name, image=small, overlay=over, ranking=best))


def _shown(photo: Pixels, heat: NDArray[np.float32] | None, preprocessing: Preprocessing) -> tuple[str, str | None]:
    """The whole photo, small, and the same with the map laid over what the network has seen of it.

    Laid over the file's own pixels, and made small afterwards, so that what the page shows is what a reader of the
    file would find.
    """
    if heat is None:
        return embedded_image(photo, side=_SIDE), None
    laid = overlay_on_photo(photo, heat, *preprocessing.resize.boxes((photo.shape[0], photo.shape[1])))
    return embedded_image(photo, side=_SIDE, quality=72), embedded_image(laid, side=_SIDE, quality=72)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS[: max(map(len, rows), default=3)])
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
