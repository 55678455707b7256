import errno
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torchvision
from sklearn.datasets import load_digits

from litlens.data.datasets.arrays import DigitsDataModule, FashionMNISTDataModule, MNISTDataModule
from litlens.data.module import SPLITS
from litlens.errors import UserError


def test_digits_are_all_there_once() -> None:
    data = DigitsDataModule()
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (8, 8))
    data.setup()
    rows = np.concatenate([data.samples(split).rows for split in SPLITS])
    assert sorted(rows) == list(range(1797))
    assert [len(data.samples(split)) for split in SPLITS] == [1078, 360, 359]
    index = int(data.samples("val").rows[5])
    assert np.array_equal(data.image("val", 5)[..., 0], np.round(load_digits().images[index] * 255 / 16))
    assert data.samples("val").labels[5] == load_digits().target[index]


def write_idx(folder: Path, *, train: int = 40, test: int = 10) -> None:
    """Four files in MNIST's format; the pixels count up, so that a wrong offset shows."""
    folder.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        pixels = (np.arange(count * 784) % 251).astype(np.uint8).tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(i % 10 for i in range(count))
        with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(labels)


def test_files_are_read_unpacked_or_not_and_nothing_is_written_beside_them(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    files = sorted(tmp_path.rglob("*"))
    data = MNISTDataModule(tmp_path, validation=10)
    data.setup()
    assert sorted(tmp_path.rglob("*")) == files
    assert data.class_names == list("0123456789")
    assert [len(data.samples(split)) for split in SPLITS] == [30, 10, 10]
    assert np.bincount(data.samples("val").labels).tolist() == [1] * 10
    assert data.samples("test").labels.tolist() == list(range(10))
    assert data.image("test", 3)[0, :3, 0].tolist() == [(3 * 784 + i) % 251 for i in range(3)]
    assert data.preprocessing.normalize.mean == (0.1307,)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-5], "zeros": bytes(len(content)), "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"{name} is damaged \(.+\): remove it to download it again$"):
        MNISTDataModule(tmp_path, validation=10).setup()


def test_missing_files_without_a_network_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"])
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    (raw / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError) as caught:
        MNISTDataModule(tmp_path).setup()
    refused = f"[Errno {errno.ECONNREFUSED}] Connection refused"
    assert str(caught.value) == (
        f"data.root: {raw} lacks train-labels-idx1-ubyte, t10k-images-idx3-ubyte (unpacked or as .gz): "
        f"train-labels-idx1-ubyte.gz is not in {raw} and could not be downloaded "
        f"(http://127.0.0.1:9/a/train-labels-idx1-ubyte.gz: {refused}; "
        f"http://127.0.0.1:9/b/train-labels-idx1-ubyte.gz: {refused}): "
        "copy it there, or run once on a machine with network access and copy that folder"
    )


def test_missing_files_are_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "server")
    checksums = {}
    for path in list((tmp_path / "server").iterdir()):
        archive = path if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
        if path != archive:
            archive.write_bytes(gzip.compress(path.read_bytes()))
        checksums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{(tmp_path / 'server').as_uri()}/"])
    names = [name for name, _ in torchvision.datasets.MNIST.resources]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [(name, checksums[name]) for name in names])
    data = MNISTDataModule(tmp_path, validation=10)
    data.setup()
    assert data.samples("test").labels.tolist() == list(range(10))
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(names)
    # Of another content than the published one: refused, and not kept.
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [(name, "0" * 32) for name in names])
    (tmp_path / "MNIST" / "raw" / names[0]).unlink()
    with pytest.raises(UserError, match="the checksum of the file differs"):
        MNISTDataModule(tmp_path, validation=10).setup()
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(names[1:])


def test_validation_larger_than_the_data_is_one_line(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    with pytest.raises(UserError, match=r"data\.validation: 40 is not between 1 and 39"):
        MNISTDataModule(tmp_path, validation=40).setup()


@pytest.mark.parametrize(
    ("module", "first_labels"),
    [
        # The first ten test labels as published: 7 2 1 0 4 1 4 9 5 9, and ankle boot, pullover, trouser, …
        (MNISTDataModule, [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        (FashionMNISTDataModule, [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
    ],
)
def test_the_official_test_set_is_the_test_set(
    shared_data: Path, module: type[MNISTDataModule], first_labels: list[int]
) -> None:
    data = module(shared_data)
    data.setup()
    assert [len(data.samples(split)) for split in SPLITS] == [55_000, 5_000, 10_000]
    assert data.samples("test").labels[:10].tolist() == first_labels
    assert data.samples("test").names[0] == "test/00000"
    val, train = (set(data.samples(split).names) for split in ("val", "train"))
    assert not val & train
    shares = np.bincount(data.samples("val").labels) / np.bincount(data.samples("train").labels)
    assert shares == pytest.approx(np.full(10, 1 / 11), rel=0.01)
