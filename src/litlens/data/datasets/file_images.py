"""Images in files: decoded once into the cache, or each time that they are needed."""

import hashlib
import math
import os
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from litlens.data.cache import digest, file_state
from litlens.data.decode import BadImage, Decoded, ValueRange, decode_image, read_file
from litlens.data.image_store import RECORD, ImageStore, Keys, Record, Rows
from litlens.data.preprocessing import Pixels, Resize
from litlens.data.progress import progress
from litlens.data.split import content_hash, signature
from litlens.errors import UserError

# Increased when decoding or what is kept changes, so that older caches are not used.
_VERSION = 6
_LARGE = 512  # shorter side of a JPEG above which a crop may be taken from another scale than evaluation's image
Result = TypeVar("Result")


@dataclass(eq=False)
class FileImages:
    """Files, each a row, as images at the network's size and as what crops are taken from; from the cache or decoded.

    What is known of a file once it was decoded (hash, size, range of values) is kept by its name, size and times.

    Args:
        source: The folder or the CSV that lists the files.
        folder: What the paths are relative to.
        paths: The file of each row.
        names: What a file is called in an error.
        channels: Of each image.
        resize: Brings an image to the network's size.
        shorter_side: To which a larger image is brought before crops are taken; None takes them from the original.
        value_range: As for `read_image`.
    """

    source: Path
    folder: Path
    paths: Sequence[str]
    names: Sequence[str]
    channels: int
    resize: Resize
    shorter_side: int | None = None
    value_range: ValueRange | None = None
    # Why files that were decoded are not complete images, by row.
    bad: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._top = str(self.folder)
        self._versions = f"{_VERSION} {PIL.__version__} {find_spec('pillow_heif') is not None}"
        self._keys: Keys = np.fromiter(map(self._key, range(len(self.paths))), np.uint64, len(self.paths))
        self._resized = self._store("resized", *self.resize.size, self.resize.mode)
        self._larger = self._store("larger", self.shorter_side)
        self._facts = self._store("facts")

    def _store(self, *kept: Any) -> ImageStore:
        named = digest([*kept, os.path.realpath(self.source), self.channels, self.value_range])
        return ImageStore(f"images-{named}", self._keys, channels=self.channels)

    def cache(self, rows: Rows, *, for_crops: bool = False) -> None:
        """Decode what the cache does not have: at the network's size, or at the size that crops are taken from.

        Raises:
            UserError: A file exists but could not be read, or it changed meanwhile. What was decoded before is kept.
        """
        store = self._larger if for_crops else self._resized
        store.fill(rows, lambda missing: self._decode(missing, for_crops=for_crops))

    def find_missing(self) -> None:
        """Name in `bad` the files that are missing or empty, without opening any other."""
        for row in range(len(self.paths)):
            if self._state(row)[0] <= 0:
                list(self._decode(np.array([row]), for_crops=False))

    def batch(self, rows: Rows) -> Pixels:
        """Images at the network's size: uint8 (B, H, W, C)."""
        if (pixels := self._resized.batch(rows, self.resize.size)) is not None:
            return pixels
        pixels = np.empty((len(rows), *self.resize.size, self.channels), np.uint8)
        for place, row in enumerate(rows.tolist()):
            kept = self._resized.image(row)
            pixels[place] = self.resize(self._from_file(row)) if kept is None else kept
        return pixels

    def original(self, row: int) -> Pixels:
        """The image that a crop is taken from: uint8 (h, w, C), at most as large as `shorter_side` says.

        Raises BadImage where it is decoded now and the file is no longer the same.
        """
        kept = self._larger.image(row) if self.shorter_side is not None else None
        return self._from_file(row, self.shorter_side) if kept is None else kept

    def sizes(self, rows: Rows) -> NDArray[np.int64]:
        """Heights and widths of the images in the files, (B, 2); files that were never decoded are decoded now."""
        self._refresh(rows)
        bad = np.zeros(len(self.paths), bool)
        bad[list(self.bad)] = True
        self._facts.fill(
            rows[~(self._has(rows) | bad[rows])],
            lambda missing: ((record, None) for record, _ in self._decode(missing, for_crops=True)),
        )
        return self._facts_of("size", rows).astype(np.int64)

    def hashes(self, rows: Rows) -> list[str]:
        """The hash of each file's bytes; empty where it was never decoded."""
        self._refresh(rows)
        raw, has = self._facts_of("hash", rows).tobytes().hex(), self._has(rows).tolist()
        return [f"file:{raw[32 * place : 32 * place + 32]}" if found else "" for place, found in enumerate(has)]

    def signatures(self, rows: Rows) -> NDArray[np.uint64]:
        """A number of each image, equal for equal images and rarely for others; 0 where it was never decoded.

        Images are equal at the network's size, or as they were decoded where the cache does not have all of that size.
        """
        self._refresh(rows)
        resized = np.count_nonzero(self._resized.has(np.arange(len(self.paths)))) + len(self.bad) == len(self.paths)
        return self._facts_of("resized" if resized else "signature", rows)

    @property
    def part_missing(self) -> float:
        """The fraction of files that were never decoded."""
        return 1 - float(self._has(np.arange(len(self.paths))).mean())

    @property
    def values(self) -> ValueRange | None:
        """The lowest and highest value of all files of more than 8 bits that were decoded; None without such files."""
        ranges = self._facts_of("values", np.arange(len(self.paths)))
        ranges = ranges[ranges[:, 1] > 0]
        return (float(ranges[:, 0].min()), float(ranges[:, 1].max())) if len(ranges) else None

    def fingerprint(self) -> tuple[int, int, str, str]:
        """Number and bytes of the files, a digest of names, sizes and times, and one of contents.

        The latter is empty where a file was never decoded.
        """
        states, contents = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        number = size = 0
        self._refresh(np.arange(len(self.paths)))
        hashes = self._facts_of("hash", np.arange(len(self.paths)))
        for row, path in enumerate(self.paths):
            state = self._state(row)
            if state[0] >= 0:
                number, size = number + 1, size + state[0]
                states.update(os.fsencode(path) + struct.pack("<3q", *state))
                contents.update(os.fsencode(path) + hashes[row].tobytes())
        complete = self._has(np.arange(len(self.paths))).sum() + len(self.bad) >= len(self.paths)
        return number, size, states.hexdigest(), contents.hexdigest() if complete else ""

    def _refresh(self, rows: Rows) -> None:
        """Read what worker processes have noted of files that they decoded."""
        if not self._has(rows).all():
            self._facts.open()

    def _has(self, rows: Rows) -> NDArray[np.bool_]:
        return self._resized.has(rows) | self._larger.has(rows) | self._facts.has(rows)

    def _facts_of(self, name: str, rows: Rows) -> NDArray[Any]:
        values = np.zeros(len(rows), RECORD[name])
        for store in (self._resized, self._larger, self._facts):
            has = store.has(rows)
            values[has] = store.facts(name, rows[has])
        return values

    def _decode(self, rows: Rows, *, for_crops: bool) -> Iterator[tuple[Record, Pixels]]:
        """Decode files in threads; those that are not complete images are left out, and named in `bad`."""

        def decode(row: int) -> tuple[Record, Pixels] | None:
            result = None
            try:
                content = read_file(self._path(row), name=self.names[row])
                decoded = self._decoded(row, content, self.shorter_side if for_crops else None)
                result = self._record(row, content, decoded), decoded.pixels
            except BadImage as error:
                if error.temporary:
                    # As a bad image it would be left out, although the next try may read it.
                    reason = f"cannot be read ({error.reason}): repair or remove it"
                    raise UserError(f"{self._path(row)} {reason}") from error
                self.bad[row] = error.reason
            if self._key(row) != self._keys[row]:
                raise UserError(f"{self._path(row)} was changed or removed while it was read: start again")
            if result is None or for_crops:
                return result
            record, pixels = result[0], self.resize(result[1])
            record["resized"] = signature(pixels)
            return record, pixels

        yield from filter(None, _in_threads(decode, rows, description=f"Decoding {self.source.name}"))

    def _from_file(self, row: int, shorter_side: int | None = None) -> Pixels:
        """Decode a file again; or for the first time, and then note what is known of it."""
        content = read_file(self._path(row), name=self.names[row])
        rows = np.array([row])
        changed = self._key(row) != self._keys[row]  # or was only copied, or linked
        if changed and self.hashes(rows)[0] != content_hash("file", content):
            raise BadImage(self.names[row], "the file has changed since the start of the run")
        try:
            decoded = self._decoded(row, content, shorter_side)
        except BadImage as error:
            remedy = "remove it, or give data.cache=on, which checks all files first"
            raise BadImage(self.names[row], f"{error.reason}; {remedy}") from error
        if not self._has(rows)[0]:
            self._facts.note(row, self._record(row, content, decoded))
        return decoded.pixels

    def _decoded(self, row: int, content: bytes, shorter_side: int | None) -> Decoded:
        return decode_image(
            content,
            name=self.names[row],
            channels=self.channels,
            value_range=self.value_range,
            shorter_side=shorter_side,
        )

    def _record(self, row: int, content: bytes, decoded: Decoded) -> Record:
        record: Record = np.zeros((), RECORD)
        record["key"], record["signature"] = self._keys[row], _signature(content, decoded)
        record["hash"] = np.void(bytes.fromhex(content_hash("file", content).partition(":")[2]))
        record["size"], record["values"] = decoded.size, decoded.value_range or (0, 0)
        return record

    def _path(self, row: int) -> Path:
        return Path(self._place(row))

    def _place(self, row: int) -> str:
        return os.path.join(self._top, self.paths[row])  # noqa: PTH118  (as below)

    def _state(self, row: int) -> tuple[int, int, int]:
        try:
            return file_state(self._place(row))
        except OSError:
            return -1, -1, -1

    def _key(self, row: int) -> int:
        content = os.fsencode(f"{self._versions} {self.paths[row]} {self._state(row)}")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def size_for_crops(steps: Sequence[Any], size: tuple[int, int]) -> tuple[bool, int | None]:
    """Whether an augmentation crops, and the shorter side of an image whose crops are as sharp as of the original.

    The smallest crop has as many pixels as the network takes, unless that needs more than twice its size: then it has
    at least half as many along each side. None where crops are given in pixels of the original.

    Args:
        steps: `augment` of the data module; mistakes in it are found where it is built.
        size: Height and width for the network.
    """
    crops, shortest, network = False, 1.0, max(size)
    for name, options in _flattened(steps):
        if name in ("RandomCrop", "CenterCrop", "RandomSizedCrop"):
            return True, None
        if name in ("crop", "RandomResizedCrop"):
            crops = True
            given = options if isinstance(options, dict) else {"range": options} if options is not None else {}
            areas: Any = given.get("range", given.get("scale", 0.5 if name == "crop" else 0.08))
            ratios: Any = given.get("ratio", (3 / 4, 4 / 3))
            with suppress(TypeError, ValueError, ZeroDivisionError):
                shortest = min(shortest, math.sqrt(np.min(areas) * min(*ratios, 1 / np.max(ratios))))
    return crops, max(256, min(math.ceil(network / max(shortest, 0.1)), 2 * network)) if crops else None


def _flattened(steps: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Names and options of all steps of an augmentation, those in containers included."""
    for step in steps:
        for name, options in (step if isinstance(step, dict) else {step: None}).items():
            yield name, options
            inner = options.get("transforms") if isinstance(options, dict) else None
            yield from _flattened(inner if isinstance(inner, list) else [])


def _signature(content: bytes, decoded: Decoded) -> int:
    """The signature of an image, whichever size it was decoded for."""
    if content.startswith(b"\xff\xd8") and min(decoded.size) > _LARGE:  # perhaps decoded at a smaller scale
        return signature(content[content.rfind(b"\xff\xda") :])  # the compressed pixels, without names and dates
    return signature(decoded.pixels)


def _in_threads(work: Callable[[int], Result], rows: Rows, *, description: str) -> Iterator[Result]:
    """Yield the results of `work` for each row, from threads (Pillow decodes without holding the GIL), with a bar."""
    threads = min(8, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged EXIF data, which `decode_image` handles.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for row in progress(rows, description=description):
                waiting.append(pool.submit(work, int(row)))
                if len(waiting) > 4 * threads:  # more would only fill the memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
