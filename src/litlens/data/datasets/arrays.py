"""Data sets that fit in memory as one array: scikit-learn's digits, MNIST and Fashion-MNIST."""

import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets
from torchvision.datasets import mnist
from torchvision.datasets.utils import extract_archive

from litlens.data.datasets.download import fetch
from litlens.data.datasets.stratified_split import stratified_split
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.preprocessing import Pixels
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError
from litlens.files import disk_errors, is_disk_full, user_path


class DigitsDataModule(ImageDataModule):
    """The 1,797 handwritten digits, 8×8 gray, that come with scikit-learn: a real data set without a download.

    Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998. Split 6:2:2, stratified.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = [str(digit) for digit in range(10)]
        self.in_channels = 1
        self.image_size = (8, 8)

    def load(self) -> dict[str, Split]:
        """Read the digits from the package; their 17 gray levels are spread over 0 to 255."""
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int64)
        parts = stratified_split(labels, fractions=(0.6, 0.2, 0.2), seed=self.seed)
        every = _split(pixels, labels, name="digits/{:04}")
        return {name: every.at(rows) for name, rows in zip(SPLITS, parts, strict=True)}


class _PublishedDataModule(ImageDataModule):
    """A data set of torchvision in MNIST's format: its test set is the test split, part of its training set is val."""

    # torchvision's class: the addresses and checksums of the four files, and the classes.
    _published: type[datasets.MNIST]

    def __init__(self, root: str | Path | int = "data", *, validation: int = 5000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = user_path(root)
        self.validation = validation
        self.class_names = [name.partition(" - ")[0] for name in self._published.classes]  # MNIST's: "7 - seven"
        self.in_channels = 1
        self.image_size = (28, 28)

    def source_files(self) -> list[Path]:
        """The four files, unpacked or as gzip archives, whichever are there."""
        raw = self.root / self._published.__name__ / "raw"
        archives = [raw / name for name, _ in self._published.resources]
        return [unpacked if (unpacked := path.with_suffix("")).is_file() else path for path in archives]

    def load(self) -> dict[str, Split]:
        """Download missing files, read the four, and split validation from the training set, stratified by class."""
        self._fetch_missing()
        pixels, labels, test_pixels, test_labels = map(_read, self.source_files())
        if not 0 < self.validation < len(labels):
            raise UserError(f"data.validation: {self.validation} is not between 1 and {len(labels) - 1}")
        share = self.validation / len(labels)
        train, val = stratified_split(labels, fractions=(1 - share, share), seed=self.seed)
        rest = _split(pixels, labels, name="train/{:05}")
        return {
            "train": rest.at(train),
            "val": rest.at(val),
            "test": _split(test_pixels, test_labels, name="test/{:05}"),
        }

    def _fetch_missing(self) -> None:
        checksums = [md5 for _, md5 in self._published.resources]
        missing = {file: md5 for file, md5 in zip(self.source_files(), checksums, strict=True) if not file.is_file()}
        try:
            for file, md5 in missing.items():
                fetch([mirror + file.name for mirror in self._published.mirrors], file, checksum=f"md5:{md5}")
        except UserError as error:
            names = ", ".join(file.stem for file in missing if not file.is_file())
            raise UserError(f"data.root: {file.parent} lacks {names} (unpacked or as .gz): {error}") from error


class MNISTDataModule(_PublishedDataModule):
    """MNIST: 60,000 and 10,000 handwritten digits, 28×28 gray. Y. LeCun, C. Cortes and C. Burges, 1998.

    Args:
        root: The folder of data sets; files are read from `root/MNIST/raw`, torchvision's layout, or downloaded to it.
        validation: Images of the 60,000 that are used for validation, stratified by class. The 10,000 are for test.
    """

    _published = datasets.MNIST
    preset = "mnist"


class FashionMNISTDataModule(_PublishedDataModule):
    """Fashion-MNIST: 60,000 and 10,000 images of clothes, 28×28 gray. H. Xiao, K. Rasul and R. Vollgraf, 2017.

    Args:
        root: The folder of data sets; files are read from `root/FashionMNIST/raw`, or downloaded to it.
        validation: Images of the 60,000 that are used for validation, stratified by class. The 10,000 are for test.
    """

    _published = datasets.FashionMNIST
    preset = "fashion"


def _split(pixels: Pixels, labels: NDArray[np.int64], *, name: str) -> Split:
    rows = np.arange(len(labels))
    return Split(ArrayImages(pixels), rows=rows, labels=labels, names=[name.format(row) for row in rows])


def _read(path: Path) -> Any:
    """Read pixels to uint8 (N, H, W, 1), or labels to int64 (N,).

    torchvision reads unpacked files only. Archives are unpacked to a temporary folder, since theirs may be read-only.
    """
    elsewhere = "set TMPDIR to another folder"
    with disk_errors(f"the content of {path.name}", elsewhere=elsewhere), TemporaryDirectory() as folder:
        try:
            if path.suffix == ".gz":
                extract_archive(path, folder)
            unpacked = path if path.suffix != ".gz" else Path(folder) / path.stem
            if "images" in path.name:
                return mnist.read_image_file(unpacked).numpy()[..., None]
            return mnist.read_label_file(unpacked).numpy()
        # torchvision checks no format: damage leads to any of these, often without a message.
        except (OSError, EOFError, zlib.error, AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if is_disk_full(error):
                raise
            reason = str(error) or "it is not in MNIST's format"
            raise UserError(f"{path} is damaged ({reason}): remove it to download it again") from error
