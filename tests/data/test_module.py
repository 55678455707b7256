"""The contract of every data module, on small data."""

import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_classifier
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from litlens.constants import NORMALIZATIONS
from litlens.data import loader, module, sampling
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.data.datasets.folder import FolderDataModule
from litlens.data.duplicates import shared_between_splits
from litlens.data.module import ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError


class Gray(ImageDataModule):
    """Twelve images of one gray value each, without a file."""

    def __init__(self, values: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.class_names, self.in_channels, self.image_size = ["a", "b"], 1, (2, 2)
        self.values = values

    def load(self) -> dict[str, Split]:
        images = ArrayImages(np.repeat(np.array(self.values, np.uint8), 4).reshape(-1, 2, 2, 1))
        rows = {"train": np.arange(6), "val": np.arange(6, 9), "test": np.arange(9, 12)}
        return {name: Split(images, part, part % 2, [str(row) for row in part]) for name, part in rows.items()}


def ready(**options: object) -> ImageDataModule:
    data = DigitsDataModule(**options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_auto_statistics_are_those_of_the_training_split_only() -> None:
    data = ready(seed=5)
    split = data.samples("train")
    pixels = split.images.batch(split.rows) / 255
    assert data.preprocessing.normalize.mean[0] == pytest.approx(pixels.mean(), abs=1e-9)
    assert data.preprocessing.normalize.std[0] == pytest.approx(pixels.std(), abs=1e-9)
    assert ready(seed=6).preprocessing.normalize.mean != data.preprocessing.normalize.mean


def test_statistics_of_data_without_files_are_their_own() -> None:
    for values in ([10, 30] * 6, [100, 140] * 6, [10, 30] * 6):
        data = Gray(values)
        data.setup()
        assert data.preprocessing.normalize.mean == pytest.approx([sum(values[:2]) / 2 / 255])
        assert data.preprocessing.normalize.std == pytest.approx([(values[1] - values[0]) / 2 / 255])


def test_training_batches_have_mean_zero_and_deviation_one() -> None:
    images = np.concatenate([batch[0].numpy() for batch in ready(batch_size=1078).train_dataloader()])
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is less than 1"),
        ({"normalize": "minst"}, "there is no preset 'minst'; choose from auto, mnist"),
        ({"normalize": {"mean": [0.5]}}, "needs mean and std"),
        ({"normalize": "imagenet"}, "3 values for images of 1 channels"),
        ({"augment": ["rotatoin"]}, "rotation"),
        ({"augment": "rotatoin"}, "there is no augmentation 'rotatoin'; did you mean 'rotation'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ready(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batch_size", "sizes", "line"),
    [
        (
            2000,
            [6],
            "data.batch_size: 2000 for 6 training images: a batch has only 6, an epoch has 1 step; "
            "a batch_size of 1 gives 6",
        ),
        (
            2,
            [2, 2, 2],
            "data.batch_size: 2 for 6 training images: an epoch has 3 steps; a batch_size of 1 gives 6",
        ),
        (1, [1] * 6, None),
    ],
)
def test_a_batch_is_at_most_the_split_and_few_steps_are_reported_once(
    batch_size: int, sizes: list[int], line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = Gray([10, 30] * 6, batch_size=batch_size)
    data.setup()
    for _ in range(2):
        assert [len(labels) for _, labels in data.train_dataloader()] == sizes
    assert [record.getMessage() for record in caplog.records] == ([] if line is None else [line])


def test_training_needs_an_image_for_each_device() -> None:
    data = Gray([10, 30] * 6)
    data.setup()
    data.trainer = SimpleNamespace(world_size=7, accumulate_grad_batches=1)
    with pytest.raises(UserError, match=r"^trainer\.devices: 7 for 6 training images: use at most 6$"):
        data.train_dataloader()


def test_steps_are_counted_with_accumulated_gradients(caplog: pytest.LogCaptureFixture) -> None:
    data = Gray([10, 30] * 30)
    data.load = lambda: {  # type: ignore[method-assign]
        name: Split(ArrayImages(np.full((40, 2, 2, 1), 9, np.uint8)), np.arange(40), np.arange(40) % 2, ["a"] * 40)
        for name in ("train", "val", "test")
    }
    data.batch_size = 4
    data.trainer = small_classifier.trainer(accumulate_grad_batches=4)
    data.setup()
    data.train_dataloader()
    # Ten batches are three steps, the last one of two batches.
    assert [record.getMessage() for record in caplog.records if record.name.startswith("litlens")] == [
        "data.batch_size: 4 for 40 training images with trainer.accumulate_grad_batches: 4: an epoch has 3 steps; "
        "a batch_size of 2 gives 5"
    ]


def test_a_setup_that_failed_fails_again_with_the_same_message() -> None:
    data = Gray([10, 30] * 6, normalize="imagenet")
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            data.setup()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "3 values for images of 1 channels" in messages[0]
    with pytest.raises(RuntimeError, match="after setup"):
        data.samples("train")


def test_a_plain_loop_over_epochs_gets_successive_epochs() -> None:
    """Both ways to write it: one loader for all epochs, or one for each."""
    each, once = Gray([10, 30] * 6, batch_size=2), Gray([10, 30] * 6, batch_size=2)
    each.setup()
    once.setup()
    loader = once.train_dataloader()
    epochs = [[labels.tolist() for _, labels in each.train_dataloader()] for _ in range(4)]
    assert epochs == [[labels.tolist() for _, labels in loader] for _ in range(4)]
    expected = [sampling.training_indices(seed=0, epoch=epoch, size=6, batch_size=2) % 2 for epoch in range(4)]
    assert epochs == [indices.tolist() for indices in expected]


class Mean(LightningModule):
    """Gives the mean of each image, and counts nothing."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        means: Tensor = batch[0].mean((1, 2, 3))
        return means


@pytest.mark.parametrize("given", ["datamodule", "loader"])
def test_predict_takes_the_loaders(given: str) -> None:
    data = Gray([0, 255] * 6, batch_size=2, normalize={"mean": [0.0], "std": [1.0]})
    data.setup()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    if given == "datamodule":
        predicted = trainer.predict(Mean(), datamodule=data)
    else:
        predicted = trainer.predict(Mean(), data.test_dataloader())
    # Rows 9, 10 and 11 of black and white images by turns.
    assert [batch.tolist() for batch in predicted or []] == [[1.0, 0.0], [1.0]]


def test_the_data_module_normalizes_uint8_on_the_device() -> None:
    data = Gray([10, 30] * 6)
    data.setup()
    images, labels = data._dataset("train").fetch((0, np.arange(3)))
    on_device = data.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(on_device[0], data.preprocessing.normalize(images))
    assert data.on_after_batch_transfer(on_device, 0) is on_device
    assert data.on_after_batch_transfer((on_device[0], labels), 0)[0] is on_device[0]


class OnDevice(Gray):
    """Hands on bytes, as a trainer's GPU gets them."""

    hold = False

    def _loader_options(self, split: str, dataset: Any) -> dict[str, Any]:
        hold = self.hold and dataset.table is not None
        return {**super()._loader_options(split, dataset), "device": torch.device("cpu"), "hold": hold}


class HeldOnDevice(OnDevice):
    """Holds what it can on the device, as by default on a GPU."""

    hold = True


class Kept(LightningModule):
    """Keeps the images of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.images = nn.Linear(1, 1), list[Tensor]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.images.append(batch[0])
        loss: Tensor = self.layer(batch[1][:, None].float()).mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.images.append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("augment", [None, ["rotation"]])
def test_a_fit_gets_the_same_batches_wherever_they_are_indexed_and_normalized(
    augment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_CHUNK", 4 * 4 * 2)  # two images at a time
    kept = []
    for kind in (Gray, OnDevice, HeldOnDevice):
        options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        model, data = Kept(), kind([10, 30] * 6, batch_size=1, augment=augment)
        Trainer(accelerator="cpu", max_epochs=2, logger=False, **options).fit(model, datamodule=data)
        kept.append(model.images)
    for others in kept[1:]:
        assert len(kept[0]) == len(others) > 12
        assert all(torch.equal(images, same) for images, same in zip(kept[0], others, strict=True))


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, "cpu", (0, False)),
        ({"augment": "rotation"}, "cpu", (0, False)),
        ({"augment": "rotation", "num_workers": 2}, "cpu", (2, False)),
        ({}, "cuda", (0, True)),  # 24 bytes of 240
        ({"on_device": False}, "cuda", (0, False)),
        ({"num_workers": 2}, "cuda", (0, True)),
        ({"augment": "rotation", "on_device": True}, "cuda", (7, False)),  # eight cores
        ({}, "meta", (0, False)),  # of a device that does not tell its memory
        ({"on_device": True}, "meta", (0, True)),
    ],
)
def test_how_images_are_fetched_follows_from_device_and_augmentation(
    options: dict[str, Any], device: str, expected: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=240))
    data = Gray([10, 30] * 6, **options)
    data.setup()
    assert data.fetching("train", torch.device(device)) == expected
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=239))
    assert data.fetching("train", torch.device(device))[1] is (expected[1] and device != "cuda")


def test_auto_means_imagenet_for_color(tmp_path: Path) -> None:
    class Colored(Gray):
        def __init__(self, **options: Any) -> None:
            super().__init__([10, 30] * 6, **options)
            self.in_channels = 3

        def load(self) -> dict[str, Split]:
            gray = super().load()
            images = ArrayImages(gray["train"].images.batch(np.arange(12)).repeat(3, axis=3))
            return {name: dataclasses.replace(split, images=images) for name, split in gray.items()}

    data = Colored()
    data.setup()
    assert (data.preprocessing.normalize.mean, data.preprocessing.normalize.std) == NORMALIZATIONS["imagenet"]


@pytest.mark.parametrize("part", [np.s_[:], np.s_[2:], np.s_[1:499, 5:], np.s_[::2]])
def test_a_mapped_array_is_pickled_as_its_place_in_the_file(part: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 20, 20, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")[part]
    pickled = pickle.dumps(ArrayImages(mapped))
    # Arrays with gaps in the file and arrays in memory are pickled with their pixels.
    assert (len(pickled) < 1000) == mapped.flags.c_contiguous
    for again in (pickle.loads(pickled), pickle.loads(pickle.dumps(ArrayImages(pixels[part])))):
        assert np.array_equal(again.batch(np.arange(len(mapped))), pixels[part])


class Mapped(ImageDataModule):
    """200 images of 64×64 in a file, the first of which is left out."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(**options)
        self.class_names, self.in_channels, self.image_size = ["a", "b"], 1, (64, 64)
        self.path = path

    def load(self) -> dict[str, Split]:
        images = ArrayImages(np.load(self.path, mmap_mode="r")[1:])
        parts = {"train": np.arange(120), "val": np.arange(120, 160), "test": np.arange(160, 199)}
        return {name: Split(images, rows, rows % 2, [str(row) for row in rows]) for name, rows in parts.items()}


@pytest.fixture
def spawning() -> Iterator[None]:
    """Worker processes as on Windows and macOS."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawning")
@pytest.mark.parametrize("kind", ["array", "folder"])
def test_a_spawned_worker_maps_the_images_itself(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    for number, image in enumerate(pixels):
        path = tmp_path / "folder" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)

    def make_loader(num_workers: int) -> Any:
        options: dict[str, Any] = {"num_workers": num_workers, "batch_size": 32, "normalize": "mnist"}
        if kind == "array":
            data: ImageDataModule = Mapped(tmp_path / "images.npy", **options)
        else:
            data = FolderDataModule(tmp_path / "folder", image_size=64, channels=1, **options)
        data.setup()
        return data.train_dataloader()

    spawned = make_loader(1)
    assert len(pickle.dumps(spawned.dataset)) < 30_000 < pixels.nbytes
    for batch, expected in zip(spawned, make_loader(0), strict=True):
        assert torch.equal(batch[0], expected[0])
        assert torch.equal(batch[1], expected[1])


class Files(Gray):
    """Data that come from files; the images are not used."""

    def __init__(self, files: list[Path], **options: Any) -> None:
        super().__init__([0, 1] * 6, **options)
        self.files = files

    def source_files(self) -> list[Path]:
        return self.files


def test_the_fingerprint_depends_on_the_folder_of_a_file(tmp_path: Path) -> None:
    files = [tmp_path / "here" / name for name in ("a/1.png", "a/2.png", "b/3.png")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]))
    before = Files(files).fingerprint()
    assert (before["files"], before["bytes"]) == (3, 3)
    # A copy of it all has other times, and is the same data.
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    copied = Files([tmp_path / "there" / file.relative_to(tmp_path / "here") for file in files]).fingerprint()
    assert copied["content"] == before["content"]
    # A move from class to class leaves names, sizes and times.
    moved = files[1].rename(tmp_path / "here" / "b" / "2.png")
    after = Files([files[0], moved, files[2]]).fingerprint()
    assert after["stat"] != before["stat"]
    assert after["content"] != before["content"]


@pytest.mark.parametrize("reader", ["file_state", "_content"])
def test_a_file_that_is_removed_before_the_fingerprint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """Between the listing and the sizes and times, and between these and the content."""
    file = tmp_path / "all.npz"
    file.write_bytes(b"pixels")
    original = getattr(module, reader)

    def after_removal(*args: Any) -> Any:
        file.unlink()
        return original(*args)

    monkeypatch.setattr(module, reader, after_removal)
    with pytest.raises(UserError) as caught:
        Files([file]).fingerprint()
    assert (
        str(caught.value) == f"{file} cannot be read (No such file or directory): repair or remove it, and start again"
    )


def test_a_single_file_and_none_have_a_fingerprint(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.npz").write_bytes(b"pixels")
    here, there = (Files([tmp_path / name / "all.npz"]).fingerprint() for name in ("here", "there"))
    assert here["content"] == there["content"] != Files([]).fingerprint()["content"]
    assert (Files([]).fingerprint()["files"], Files([]).fingerprint()["bytes"]) == (0, 0)


def test_files_on_two_drives_have_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "all.npz"
    file.write_bytes(b"pixels")

    def on_two_drives(paths: list[Path]) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", on_two_drives)
    assert Files([file]).fingerprint()["bytes"] == 6


def test_the_fingerprint_follows_from_the_files_and_from_no_seed(tmp_path: Path) -> None:
    file = tmp_path / "all.npz"
    file.write_bytes(b"pixels")
    before = Files([file]).fingerprint()
    assert before["content"] == hashlib.blake2b(b"all.npz" + b"pixels", digest_size=16).hexdigest()
    assert Files([file], seed=7).fingerprint() == before
    # Another content of the same size, then the first one again at another time.
    file.write_bytes(b"slexip")
    os.utime(file, (1, 1))
    other = Files([file]).fingerprint()
    assert (other["files"], other["bytes"]) == (before["files"], before["bytes"])
    assert other["content"] != before["content"]
    file.write_bytes(b"pixels")
    os.utime(file, (2, 2))
    again = Files([file]).fingerprint()
    assert again["stat"] not in (before["stat"], other["stat"])
    assert again["content"] == before["content"]


def test_images_in_two_splits_are_found() -> None:
    data = ready()
    assert shared_between_splits(data) == []
    train, test = data.samples("train"), data.samples("test")
    test.rows[7] = train.rows[3]
    assert shared_between_splits(data) == [(train.names[3], test.names[7])]
