"""Characters of computer fonts, from Chars74K or drawn from font files: the 52 whose shapes differ.

Many fonts of a collection are related: one design under two names, a bold font with the regular one's digits. After a
random split by font, 27 % of Chars74K's validation glyphs have a pixel-identical twin in training, and the score is
too high. The split is therefore by family: fonts that share a glyph are a family, and a family is never divided.
"""

import functools
import hashlib
import json
import logging
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from litlens.data.cache import cached_array, digest
from litlens.data.datasets.download import fetch
from litlens.data.datasets.font_render import FontError, draw_font, font_files
from litlens.data.datasets.stratified_split import stratified_split
from litlens.data.decode import read_image
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Pixels, Resize, ResizeMode
from litlens.data.progress import progress
from litlens.data.sampling import Indices
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError, listed
from litlens.files import user_path

# Capital O is left out for the digit and the small letter, small letters for capitals of the same shape.
CHARACTERS = "0123456789ABCDEFGHIJKLMNPQRSTUVWXYZabdefghijmnoqrtuy"

_URL = "http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/EnglishFnt.tgz"
_ALL_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # of Sample001 to Sample062
_FOLDERS = [f"Sample{_ALL_CHARACTERS.index(character) + 1:03}" for character in CHARACTERS]
_IMAGE = re.compile(r"Sample\d{3}/img\d{3}-(\d+)\.png$")
_VERSION = 2  # in the keys of the caches: raised when the same files give other images or families
# Share of the fonts in val, and in test: the reference split has 716, 150 and 150 of 1,016.
_HELD_OUT = 150 / 1016
# A larger family goes to training; one of Chars74K's families of 25 fonts would be a sixth of val or test.
_LARGEST_HELD_OUT = 10

_log = logging.getLogger(__name__)


class FontsDataModule(ImageDataModule):
    """Characters of computer fonts in 52 classes, gray, balanced, and split 716:150:150 by family of fonts.

    Source: T. de Campos, B. Babu and M. Varma, "Character recognition in natural images", VISAPP 2009. Its
    1,016 fonts give 37,232, 7,800 and 7,800 images.

    Args:
        root: The folder of data sets; `root/chars74k/EnglishFnt.tgz` is downloaded if it is missing.
        source: `chars74k`, or `render`: draw the characters from the font files (.ttf, .otf) of this machine.
            Fonts that lack a character, draw two alike or are copies are left out and counted.
        folder: Read from here instead: for `chars74k` an archive or an extracted folder, for `render` a
            folder of font files.
        image_size: (height, width) that the images are resized to, whatever size they have.
    """

    # The margin around a character is part of the image: nothing is cropped.
    resize_mode: ResizeMode = "squash"

    def __init__(
        self,
        root: str | Path | int = "data",
        *,
        source: Literal["chars74k", "render"] = "chars74k",
        folder: str | Path | int | None = None,
        image_size: tuple[int, int] = (90, 90),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if source not in ("chars74k", "render"):
            raise UserError(f"data.source: '{source}' is not chars74k or render")
        self.root = user_path(root)
        self.source = source
        self.folder = None if folder is None else user_path(folder)
        self.class_names = list(CHARACTERS)
        self.in_channels = 1
        self.image_size = (image_size[0], image_size[1])

    def source_files(self) -> list[Path]:
        """The font files, the archive, or the images in the extracted folder."""
        if self.source == "render":
            return list(font_files(self.folder))
        place = self._chars74k
        return sorted(place.glob("Sample*/img*.png")) if place.is_dir() else [place]

    def load(self) -> dict[str, Split]:
        """Read or draw the images, find the families of fonts, and split by them."""
        if self.source == "chars74k" and not self._chars74k.exists():
            if self.folder is not None:
                raise UserError(f"data.folder: there is no archive or folder {self.folder}")
            fetch([_URL], self._chars74k)
        facts, pixels = self._cached()
        self.left_out = [f"{name}: {reason} ({detail})" for name, reason, detail in facts["left_out"]]
        if self.left_out:
            counts = Counter(reason for _, reason, _ in facts["left_out"]).most_common()
            reasons = ", ".join(f"{reason} ({count})" for reason, count in counts)
            total = len(facts["fonts"]) + len(self.left_out)
            _log.warning("%d of %d fonts left out: %s", len(self.left_out), total, reasons)
        classes, images = np.arange(len(CHARACTERS), dtype=np.int64), ArrayImages(pixels)
        return {
            name: Split(
                images,
                rows=(chosen[:, None] * len(CHARACTERS) + classes).ravel(),
                labels=np.tile(classes, len(chosen)),
                names=[name for font in chosen for name in self._sample_names(facts["fonts"][font])],
                groups=[str(facts["families"][font]) for font in chosen for _ in classes],
            )
            for name, chosen in split_by_family(facts["families"], seed=self.seed).items()
        }

    @property
    def _chars74k(self) -> Path:
        """The archive, or the folder of the class folders where it was extracted."""
        place = self.folder or self.root / "chars74k" / "EnglishFnt.tgz"
        top = place if self.folder else place.parent
        extracted = [path for path in (top / "English" / "Fnt", top / "Fnt") if path.is_dir()]
        return extracted[0] if extracted and not place.is_file() else place

    def _sample_names(self, font: str) -> list[str]:
        """`Fnt/Sample011/img011-00042.png`, the path in the archive below `English`, or `DejaVuSans.ttf/A`."""
        if self.source == "render":
            return [f"{font}/{character}" for character in CHARACTERS]
        return [f"Fnt/{name}" for name in _image_names(font)]

    def _cached(self) -> tuple[dict[str, Any], Pixels]:
        """The fonts, their families and the fonts left out; and the images, class c of font f in row 52 f + c."""
        owner = digest([_VERSION, self.source, str((self.folder or self.root).absolute()), self.image_size])
        key, read = str(self.fingerprint()["content"]), functools.cache(self._read)

        def encoded() -> NDArray[np.uint8]:
            return np.frombuffer(json.dumps(read()[0]).encode(), dtype=np.uint8)

        facts = json.loads(cached_array(key, encoded, owner=f"fonts-facts-{owner}").tobytes())
        return facts, cached_array(key, lambda: read()[1], owner=f"fonts-pixels-{owner}")

    def _read(self) -> tuple[dict[str, Any], Pixels]:
        sources: dict[str, Callable[[], list[Pixels]]]
        if self.source == "render":
            paths = font_files(self.folder)
            sources = {name: functools.partial(draw_font, path, CHARACTERS) for path, name in paths.items()}
        else:
            sources = _chars74k_fonts(self._chars74k)
        resize = Resize(self.image_size, self.resize_mode)
        # As large as if every font could be used: pages that are never written take no memory.
        pixels = np.empty((len(sources), len(CHARACTERS), *self.image_size, 1), dtype=np.uint8)
        names, glyphs, left_out = list[str](), list[list[bytes]](), list[tuple[str, str, str]]()
        for name, read in progress(sources.items(), description="Reading fonts", total=len(sources)):
            try:
                images = read()
                # Digests of the original images: two that differ can be equal at the network's size.
                drawn = [hashlib.blake2b(repr(i.shape).encode() + i.tobytes(), digest_size=16).digest() for i in images]
                if self.source == "render" and drawn in glyphs:
                    raise FontError("is a copy of another", names[glyphs.index(drawn)])
            except FontError as error:
                left_out.append((name, error.reason, error.detail))
                continue
            pixels[len(names)] = [resize(image) for image in images]
            names.append(name)
            glyphs.append(drawn)
        if not names:
            examples = listed((f"{name} {reason} ({detail})" for name, reason, detail in left_out), most=3)
            raise UserError(f"data.folder: none of the font files ({len(left_out)}) can be used: {examples}")
        facts = {"fonts": names, "families": font_families(glyphs).tolist(), "left_out": left_out}
        return facts, pixels[: len(names)].reshape(-1, *pixels.shape[2:])


def font_families(glyphs: Sequence[Sequence[bytes]]) -> NDArray[np.int32]:
    """The family of each font: the connected component of fonts that share a glyph of one class.

    Args:
        glyphs: The glyphs of each font in the order of the classes, or their digests.
    """
    known: dict[tuple[int, bytes], int] = {}
    edges = np.array(
        [
            (font, known.setdefault((label, glyph), len(known)))
            for font, of_font in enumerate(glyphs)
            for label, glyph in enumerate(of_font)
        ]
    )
    has = coo_array((np.ones(len(edges)), edges.T), shape=(len(glyphs), len(known)))
    families: NDArray[np.int32] = connected_components(has @ has.T, directed=False)[1]
    return families


def split_by_family(families: Sequence[int], *, seed: int) -> dict[str, Indices]:
    """Split fonts into `train`, `val` and `test`, 716:150:150, by complete families; large ones go to training.

    Raises:
        UserError: There are too few families for three splits.
    """
    _, family, sizes = np.unique(families, return_inverse=True, return_counts=True)
    held_out = max(1, round(len(families) * _HELD_OUT))
    parts = np.zeros(len(families), dtype=np.int64)  # 0, 1, 2: training, validation, test
    room = {1: held_out, 2: held_out}
    # In random order, the first part with room for the complete family. The figures in docs/ are on this choice;
    # `stratified_split` alone would choose other fonts.
    for chosen in np.random.default_rng(seed).permutation(np.flatnonzero(sizes <= _LARGEST_HELD_OUT)):
        if part := next((part for part in room if sizes[chosen] <= room[part]), 0):
            room[part] -= sizes[chosen]
            parts[family == chosen] = part
    if any(room.values()):  # few or large families: as near as they allow
        small = np.flatnonzero(sizes[family] <= _LARGEST_HELD_OUT)
        shares = [max(1, len(small) - 2 * held_out), held_out, held_out]
        chosen_fonts = stratified_split(np.zeros(len(small)), shares, seed=seed, groups=family[small].tolist())
        for part in (0, 1, 2):
            parts[small[chosen_fonts[part]]] = part
    splits = {split: np.flatnonzero(parts == part) for part, split in enumerate(("train", "val", "test"))}
    if not all(map(len, splits.values())):
        raise UserError(
            f"data: too few font families for three splits (families: {len(sizes)}, fonts: {len(families)}); "
            f"add fonts (a family is never divided, and one of more than {_LARGEST_HELD_OUT} goes to training)"
        )
    return splits


def _image_names(font: str) -> list[str]:
    return [f"{folder}/img{folder[-3:]}-{font}.png" for folder in _FOLDERS]


def _chars74k_fonts(place: Path) -> dict[str, Callable[[], list[Pixels]]]:
    """The number of each font, as in its file names, with a function that reads its images."""
    images: dict[str, Path | bytes]
    if place.is_dir():
        images = {path.relative_to(place).as_posix(): path for path in place.glob("Sample*/img*.png")}
    else:
        images = dict(_archived_images(place))
    fonts = sorted({match[1] for name in images if (match := _IMAGE.search(name))})
    names = {font: _image_names(font) for font in fonts}
    if missing := [name for of_font in names.values() for name in of_font if name not in images]:
        raise UserError(
            f"{place} has {len(fonts)} fonts, but not all images of each; missing: {listed(missing)}; "
            f"get it again from {_URL}"
        )
    if not fonts:
        raise UserError(f"{place} has no images such as {_image_names('00001')[0]}; get it from {_URL}")

    def read(font: str) -> list[Pixels]:
        return [read_image(images[name], name=f"{place}: {name}", channels=1) for name in names[font]]

    return {font: functools.partial(read, font) for font in fonts}


def _archived_images(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image; about 50 MB, since an archive can only be read in its own order, by class."""
    try:
        with tarfile.open(archive) as tar:
            for member in progress(tar, description=f"Reading {archive.name}"):
                if (match := _IMAGE.search(member.name)) and (file := tar.extractfile(member)):
                    yield match[0], file.read()
    # A truncated archive ends too early; a damaged one fails in tar's headers, gzip's checksums or zlib's codes.
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        # tarfile lists each compression that it tried, one per line.
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{archive} is damaged ({reason}); remove it, and get it again from {_URL}") from error
