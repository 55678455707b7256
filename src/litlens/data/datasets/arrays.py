"""Data sets that fit in memory as one array: scikit-learn's digits, MNIST and Fashion-MNIST."""

import gzip
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from litlens.data.datasets.download import NotFetched, fetch
from litlens.data.datasets.splits import stratified_split
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Pixels
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError
from litlens.files import user_path


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
        images = ArrayImages(pixels)
        return {
            name: Split(images, rows=rows, labels=labels[rows], names=[f"digits/{row:04}" for row in rows])
            for name, rows in zip(("train", "val", "test"), parts, strict=True)
        }


class _IdxDataModule(ImageDataModule):
    """Two pairs of IDX files, MNIST's format: the second is the test split, a part of the first is for validation."""

    _folder: str
    _class_names: tuple[str, ...]
    _mirrors: tuple[str, ...]
    # File and MD5 of its gzip archive, as torchvision.datasets.mnist lists them.
    _archives: ClassVar[dict[str, str]]

    def __init__(self, root: str | Path | int = "data", *, validation: int = 5000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = user_path(root)
        self.validation = validation
        self.class_names = list(self._class_names)
        self.in_channels = 1
        self.image_size = (28, 28)

    def source_files(self) -> list[Path]:
        """The four files, unpacked or as gzip archives, whichever are there."""
        return [self._find(name) or self._raw / f"{name}.gz" for name in self._archives]

    def load(self) -> dict[str, Split]:
        """Read the four files, fetch missing ones, and split validation from the 60,000, stratified."""
        self._fetch_missing()
        pixels, labels, test_pixels, test_labels = (_read_idx(path) for path in self.source_files())
        if not 0 < self.validation < len(labels):
            raise UserError(f"data.validation: {self.validation} is not between 1 and {len(labels) - 1}")
        share = self.validation / len(labels)
        train, val = stratified_split(labels, fractions=(1 - share, share), seed=self.seed)
        return {
            "train": _split(pixels, labels, rows=train, folder="train"),
            "val": _split(pixels, labels, rows=val, folder="train"),
            "test": _split(test_pixels, test_labels, rows=np.arange(len(test_labels)), folder="test"),
        }

    @property
    def _raw(self) -> Path:
        return self.root / self._folder / "raw"

    def _find(self, name: str) -> Path | None:
        return next((path for path in (self._raw / name, self._raw / f"{name}.gz") if path.is_file()), None)

    def _missing(self) -> list[str]:
        return [name for name in self._archives if self._find(name) is None]

    def _fetch_missing(self) -> None:
        for name in self._missing():
            try:
                fetch(
                    [f"{mirror}{name}.gz" for mirror in self._mirrors],
                    self._raw / f"{name}.gz",
                    md5=self._archives[name],
                )
            except NotFetched as error:
                raise UserError(
                    f"data.root: {self._raw} lacks {', '.join(self._missing())} (.gz or unpacked), which could "
                    f"not be fetched ({error.reason}): put the files there, or run once where there is a network"
                ) from error


class MNISTDataModule(_IdxDataModule):
    """MNIST: 60,000 and 10,000 handwritten digits, 28×28 gray. Y. LeCun, C. Cortes and C. Burges, 1998.

    Args:
        root: Where data sets live; the files are read from, or fetched into, `root/MNIST/raw`, as torchvision has it.
        validation: How many of the 60,000 are for validation, stratified by class. The 10,000 are the test split.
    """

    _folder = "MNIST"
    preset = "mnist"
    _class_names = tuple("0123456789")
    _mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
    _archives: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }


class FashionMNISTDataModule(_IdxDataModule):
    """Fashion-MNIST: 60,000 and 10,000 images of clothes, 28×28 gray. H. Xiao, K. Rasul and R. Vollgraf, 2017.

    Args:
        root: Where data sets live; the files are read from, or fetched into, `root/FashionMNIST/raw`.
        validation: How many of the 60,000 are for validation, stratified by class. The 10,000 are the test split.
    """

    _folder = "FashionMNIST"
    preset = "fashion"
    _class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    _mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    _archives: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }


def _split(pixels: Pixels, labels: NDArray[np.int64], *, rows: NDArray[np.int64], folder: str) -> Split:
    names = [f"{folder}/{row:05}" for row in rows]
    return Split(ArrayImages(pixels), rows=rows, labels=labels[rows], names=names)


def _read_idx(path: Path) -> Any:
    """Pixels as uint8 (N, H, W, 1) or labels as int64 (N,). The format: http://yann.lecun.com/exdb/mnist, its end."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
        values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and it is fetched again") from error
    return values.astype(np.int64) if dimensions == 1 else values[..., None]
