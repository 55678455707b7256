"""Characters of computer fonts, from Chars74K or drawn from font files: the 52 whose shapes differ.

Split by family of fonts (`litlens.data.datasets.font_families`): a score on random fonts is another thing."""

import hashlib
import io
import json
import logging
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from litlens.data.cache import cached_array, digest, file_state
from litlens.data.datasets.download import fetch
from litlens.data.datasets.font_families import font_families, split_by_family
from litlens.data.datasets.font_render import FontError, RenderedFonts
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Pixels, Resize, ResizeMode
from litlens.data.progress import progress
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError
from litlens.files import user_path

# Capital O is left out for the digit and the small letter, small letters for capitals of the same shape.
CHARACTERS = "0123456789ABCDEFGHIJKLMNPQRSTUVWXYZabdefghijmnoqrtuy"

_URL = "http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/EnglishFnt.tgz"
_ALL_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # of Sample001 to Sample062
_MEMBER = re.compile(r"(?:^|/)Sample(\d{3})/img\d+-(\d+)\.png$")
_VERSION = 1  # in the keys of the caches: raised when the same files come to give other images or families

_log = logging.getLogger(__name__)


class FontSource(Protocol):
    """Fonts as images of characters."""

    def files(self) -> list[Path]:
        """What the images come from."""

    def fonts(self) -> Iterator[tuple[str, list[Image.Image] | FontError]]:
        """Each font's name, and its characters in order, dark on white, or why it cannot be used."""

    def sample_name(self, font: str, label: int) -> str:
        """A stable, unique name of one image."""


class FontsDataModule(ImageDataModule):
    """Characters of computer fonts in 52 classes, gray, balanced, and split 716:150:150 by family of fonts.

    Source: T. de Campos, B. Babu and M. Varma, "Character recognition in natural images", VISAPP 2009: of its
    1,016 fonts come 37,232 / 7,800 / 7,800 images.

    Args:
        root: Where data sets live; the archive is `root/chars74k/EnglishFnt.tgz`, fetched if it is missing.
        source: `chars74k`, or `render`: draw the characters from the font files (.ttf, .otf) of this machine.
            Fonts that lack a character or draw two alike are left out and counted.
        folder: Read from here instead: for `chars74k` an archive or an extracted folder, for `render` a
            folder of font files.
        image_size: (height, width) that the images are brought to, whatever size they have.
    """

    # The characters have a margin that is part of the image: nothing is cut off.
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
        self.image_size = (int(image_size[0]), int(image_size[1]))

    def source_files(self) -> list[Path]:
        """The archive, the images of an extracted one, or the font files."""
        return self._source.files()

    def load(self) -> dict[str, Split]:
        """Read or draw the images, find the families of fonts, and split by them."""
        source = self._source
        if isinstance(source, Chars74K):
            source.find(fetch_missing=self.folder is None)
        fonts = _cached_fonts(source, image_size=self.image_size)
        self.left_out = [f"{name}: {reason} ({detail})" for name, reason, detail in fonts.left_out]
        if fonts.left_out:
            counts = Counter(reason for _, reason, _ in fonts.left_out).most_common()
            total = len(fonts.names) + len(fonts.left_out)
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
            _log.warning("%d of %d fonts left out: %s", len(fonts.left_out), total, reasons)
        families = np.array(fonts.families, dtype=np.int64)
        images = ArrayImages(fonts.pixels)
        return {
            name: self._split(images, fonts=fonts, chosen=chosen, source=source)
            for name, chosen in split_by_family(families, seed=self.seed).items()
        }

    @property
    def _source(self) -> "Chars74K | RenderedFonts":
        if self.source == "render":
            return RenderedFonts(self.class_names, folder=self.folder and self.folder.absolute())
        place = self.folder or self.root / "chars74k" / "EnglishFnt.tgz"
        return Chars74K(self.class_names, place=place.absolute())

    def _split(self, images: ArrayImages, *, fonts: "_Fonts", chosen: NDArray[np.int64], source: FontSource) -> Split:
        classes = len(self.class_names)
        return Split(
            images,
            rows=(chosen[:, None] * classes + np.arange(classes)).ravel(),
            labels=np.tile(np.arange(classes, dtype=np.int64), len(chosen)),
            names=[source.sample_name(fonts.names[font], c) for font in chosen for c in range(classes)],
            groups=[str(fonts.families[font]) for font in chosen for _ in range(classes)],
        )


@dataclass(frozen=True)
class Chars74K:
    """Chars74K's `EnglishFnt.tgz`, or a folder that it was extracted to, with images of any size."""

    characters: Sequence[str]
    place: Path

    def find(self, *, fetch_missing: bool) -> None:
        """Make sure that there is an archive, or what was extracted from one; get it where it may be fetched.

        Raises:
            UserError: There is none, and it is not to be fetched or cannot be.
        """
        if self.place.exists() or self._extracted is not None:
            return
        if not fetch_missing:
            raise UserError(f"data.folder: there is no archive or folder {self.place}")
        fetch([_URL], self.place)

    def files(self) -> list[Path]:
        """The archive alone, or the images of the classes in use."""
        extracted = self._extracted
        return [self.place] if extracted is None else sorted(self._in_folder(extracted).values())

    def fonts(self) -> Iterator[tuple[str, list[Image.Image] | FontError]]:
        """Each font's number, as its files have it, and its images."""
        extracted = self._extracted
        images = self._in_archive() if extracted is None else self._in_folder(extracted)
        fonts = self._checked(images)
        for font in progress(fonts, description="Reading fonts"):
            yield font, [self._decoded(images[number, font], number, font) for number in self._numbers]

    def sample_name(self, font: str, label: int) -> str:
        """`Fnt/Sample011/img011-00042.png`: the file's path in the archive, below `English`."""
        number = self._numbers[label]
        return f"Fnt/Sample{number:03}/img{number:03}-{font}.png"

    @property
    def _numbers(self) -> list[int]:
        return [_ALL_CHARACTERS.index(character) + 1 for character in self.characters]

    @property
    def _extracted(self) -> Path | None:
        """The folder of the classes' folders, in `place` or beside a missing archive; None for an archive."""
        if self.place.is_file():
            return None
        top = self.place if self.place.is_dir() else self.place.parent
        inner = (path for path in (top / "English" / "Fnt", top / "Fnt") if path.is_dir())
        return next(inner, top if self.place.is_dir() else None)

    def _in_folder(self, folder: Path) -> dict[tuple[int, str], Path]:
        numbers = set(self._numbers)
        paths = [path for number in numbers for path in (folder / f"Sample{number:03}").glob("img*-*.png")]
        return {key: path for path in paths if (key := _key(path.as_posix())) is not None}

    def _in_archive(self) -> dict[tuple[int, str], bytes]:
        """The files' contents, some 50 megabytes: an archive can only be read in its own order, by class."""
        images, numbers = dict[tuple[int, str], bytes](), set(self._numbers)
        try:
            with tarfile.open(self.place) as archive:
                for member in progress(archive, description="Reading the archive"):
                    key = _key(member.name)
                    if key is not None and key[0] in numbers and (file := archive.extractfile(member)):
                        images[key] = file.read()
        # A cut file ends too early; a damaged one fails in tar's headers, gzip's checksums or zlib's codes.
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            # tarfile tells each compression that it tried, in a line of its own.
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise UserError(f"{self.place} is damaged ({reason}): remove it, and get it from {_URL}") from error
        return images

    def _checked(self, images: "dict[tuple[int, str], Any]") -> list[str]:
        """The fonts, after a check that every class has every one of them."""
        fonts = sorted({font for _, font in images})
        for number, character in zip(self._numbers, self.characters, strict=True):
            missing = [font for font in fonts if (number, font) not in images]
            where = f"{self.place}: class '{character}' (English/Fnt/Sample{number:03})"
            if len(missing) == len(fonts):
                raise UserError(f"{where} has no images; Chars74K's EnglishFnt.tgz has some of every class")
            if missing:
                raise UserError(
                    f"{where} has {len(fonts) - len(missing)} images where there are {len(fonts)} fonts: "
                    f"img{number:03}-{missing[0]}.png is missing"
                )
        return fonts

    def _decoded(self, content: Path | bytes, number: int, font: str) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
            with image:
                return image.convert("L")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = f"Sample{number:03}/img{number:03}-{font}.png"
            raise UserError(f"{self.place}: {name} cannot be decoded ({error}): get it anew") from error


@dataclass(frozen=True)
class _Fonts:
    """All fonts of a source; class c of font f is row f * classes + c of `pixels`, uint8 (N, H, W, 1)."""

    pixels: Pixels
    names: list[str]
    families: list[int]
    # Name, reason and detail of each.
    left_out: list[tuple[str, str, str]]


def _cached_fonts(source: FontSource, *, image_size: tuple[int, int]) -> _Fonts:
    settings = digest([_VERSION, repr(source), image_size])
    key = digest([settings, _content(source.files())])
    read: list[_Fonts] = []

    def fonts() -> _Fonts:
        if not read:
            read.append(_read(source, image_size=image_size))
        return read[0]

    def facts() -> NDArray[np.uint8]:
        values = {"names": fonts().names, "families": fonts().families, "left_out": fonts().left_out}
        return np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)

    known = json.loads(cached_array(key, facts, owner=f"fonts-facts-{settings}").tobytes())
    pixels = cached_array(key, lambda: fonts().pixels, owner=f"fonts-pixels-{settings}")
    return _Fonts(pixels, **known)


def _read(source: FontSource, *, image_size: tuple[int, int]) -> _Fonts:
    resize = Resize(image_size, FontsDataModule.resize_mode)
    names, pixels, digests, left_out = list[str](), list[Pixels](), list[Any](), list[tuple[str, str, str]]()
    for name, images in source.fonts():
        if isinstance(images, FontError):
            left_out.append((name, images.reason, images.detail))
            continue
        names.append(name)
        digests.append([_glyph_digest(image) for image in images])
        pixels.append(np.stack([resize(np.array(image.convert("L"))[..., None]) for image in images]))
    if not names:
        examples = "; ".join(f"{name} {reason} ({detail})" for name, reason, detail in left_out[:3])
        raise UserError(f"fonts: none of {len(left_out)} font files can be used: {examples}")
    families = font_families(np.array(digests, dtype=np.uint8)).tolist()
    joined = np.empty((len(pixels), *pixels[0].shape), dtype=np.uint8)
    # Taken out one by one, since the whole is half a gigabyte, and np.stack would hold it twice.
    for row in joined[::-1]:
        row[:] = pixels.pop()
    joined = joined.reshape(-1, *joined.shape[2:])
    return _Fonts(joined, names=names, families=families, left_out=left_out)


def _glyph_digest(image: Image.Image) -> list[int]:
    # Of the image as it came: bringing it down to another size could make twins of two that are not.
    return list(hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest())


def _content(files: list[Path]) -> list[Any]:
    """What tells whether files have changed: the content of a single one, else names, sizes and times."""
    if len(files) == 1:
        return [hashlib.blake2b(files[0].read_bytes()).hexdigest()]
    return [(str(path), *file_state(path)) for path in files]


def _key(path: str) -> tuple[int, str] | None:
    """The class's number and the font's, of `…/Sample011/img011-00042.png`."""
    match = _MEMBER.search(path)
    return (int(match[1]), match[2]) if match else None
