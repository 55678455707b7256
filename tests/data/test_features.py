"""Features are computed once, are those of the right images and weights, and make the same training."""

import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from litlens.data import features
from litlens.data.augment import Augmentation
from litlens.data.features import FeatureDataset
from litlens.data.loader import SplitDataset
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.data.split import ArrayImages, Split
from litlens.models.backbones import TransferNetwork
from litlens.models.transfer import TransferClassifier

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)


class Columns:
    """Frozen layers whose features are the means of an image's columns, times a weight; they count their images."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight, self.images = weight, 0

    def key(self) -> str:
        return str(self.weight)

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images.mean((1, 2)) * self.weight

    def batch(self, values: Tensor) -> Tensor:
        return values


def dataset(
    frozen: Columns | None,
    *,
    rows: Any = range(20),
    views: int = 1,
    mean: float = 0.5,
    memory: float = 1.0,
    augment: Any = None,
    seed: int = 5,
) -> FeatureDataset:
    rows = np.array(rows)
    split = Split(ArrayImages(PIXELS), rows, rows % 3, [str(row) for row in rows])
    prepared = Preprocessing(Resize((4, 6)), Normalize((mean,) * 3, (0.5,) * 3))
    augmentation = Augmentation(augment, Resize((4, 6))) if augment else None
    images = SplitDataset(split, preprocessing=prepared, augmentation=augmentation, seed=seed)
    return FeatureDataset(images, lambda epoch: frozen, views=views, memory=memory * 2**30)


def fetch(found: FeatureDataset, indices: Any = range(5), epoch: int = 0) -> np.ndarray[Any, Any]:
    values: Tensor = found.fetch((epoch, np.array(indices)))[0]
    return values.numpy()


def expected(rows: Any, *, mean: float = 0.5, weight: float = 1.0) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = ((PIXELS[rows] / 255 - mean) / 0.5).mean((1, 3)) * weight
    return values


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path))


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_features_are_those_of_the_images_asked_for(memory: float) -> None:
    found = dataset(Columns(), rows=range(19, 3, -1), memory=memory)
    np.testing.assert_allclose(fetch(found, [2, 0, 7]), expected([17, 19, 12]), atol=1e-6)
    assert found.fetch((0, np.array([2, 0])))[1].tolist() == [17 % 3, 19 % 3]


def test_every_image_is_computed_once_over_epochs_and_runs() -> None:
    frozen = Columns()
    found = dataset(frozen)
    for epoch in range(3):
        fetch(found, epoch=epoch)
    assert frozen.images == 20
    again = Columns()
    np.testing.assert_array_equal(fetch(dataset(again)), fetch(found))
    assert again.images == 0


def test_another_split_of_the_same_images_computes_what_is_missing() -> None:
    fetch(dataset(Columns(), rows=range(12)))
    frozen = Columns()
    np.testing.assert_allclose(fetch(dataset(frozen, rows=range(10, 18))), expected(range(10, 15)), atol=1e-6)
    assert frozen.images == 6


@pytest.mark.parametrize(("weight", "mean"), [(2.0, 0.5), (1.0, 0.25)])
def test_other_weights_or_constants_are_another_cache(weight: float, mean: float) -> None:
    fetch(dataset(Columns()))
    frozen = Columns(weight)
    np.testing.assert_allclose(
        fetch(dataset(frozen, mean=mean)), expected(range(5), mean=mean, weight=weight), atol=1e-6
    )
    assert frozen.images == 20


def test_a_cache_that_no_run_used_for_a_week_is_removed(tmp_path: Path) -> None:
    fetch(dataset(Columns(1.0)))
    (old,) = tmp_path.glob("features-*")
    fetch(dataset(Columns(2.0)))
    assert old.exists()
    os.utime(old, (time.time() - 8 * 86_400,) * 2)
    fetch(dataset(Columns(3.0)))
    assert not old.exists()


@pytest.mark.parametrize(
    "augment", [[{"horizontal_flip": {"alternate": True}}], ["rotation", "horizontal_flip"], [{"horizontal_flip": 1.0}]]
)
@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_features_of_an_epoch_are_those_of_the_live_path(augment: Any, views: int) -> None:
    frozen = Columns()
    found = dataset(frozen, views=views, augment=augment)
    live = found.images
    for epoch in range(2 * views):
        values = fetch(found, range(20), epoch=epoch)
        pixels = live.pixels(np.arange(20), epoch=epoch % views)
        np.testing.assert_allclose(values, ((pixels / 255 - 0.5) / 0.5).mean((1, 3)), atol=1e-5)
    assert frozen.images <= views * 20


def test_two_alternating_views_are_the_image_and_its_mirror_image_for_every_seed() -> None:
    frozen = Columns()
    options: dict[str, Any] = {"views": 2, "augment": [{"horizontal_flip": {"alternate": True}}]}
    first, other = (dataset(frozen, seed=seed, **options) for seed in (5, 6))
    plain, mirrored = expected(range(20)), expected(range(20))[:, ::-1]
    order = []
    for found in (first, other):
        is_plain = [np.isclose(fetch(found, range(20), epoch=epoch), plain, atol=1e-5).all(1) for epoch in range(2)]
        is_mirrored = np.isclose(fetch(found, range(20), epoch=0), mirrored, atol=1e-5).all(1)
        assert (is_plain[0] != is_plain[1]).all()
        assert (is_plain[0] != is_mirrored).all()
        order.append(is_plain[0])
    assert not np.array_equal(*order)
    assert frozen.images == 40  # the other seed found them all


class Killed(BaseException):
    """What ends a process."""


def test_what_a_killed_run_computed_is_found_and_the_rest_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BATCH", 4)
    monkeypatch.setattr(features, "_CHUNK", 1)

    class Dying(Columns):
        def __call__(self, images: Tensor) -> Tensor:
            if self.images == 12:
                raise Killed
            return super().__call__(images)

    with pytest.raises(Killed):
        fetch(dataset(Dying()))
    frozen = Columns()
    np.testing.assert_allclose(fetch(dataset(frozen)), expected(range(5)), atol=1e-6)
    assert frozen.images == 20 - 12


def test_a_damaged_chunk_is_computed_again(tmp_path: Path) -> None:
    fetch(dataset(Columns()))
    (chunk,) = tmp_path.glob("features-*/*.npy")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    frozen = Columns()
    np.testing.assert_allclose(fetch(dataset(frozen)), expected(range(5)), atol=1e-6)
    assert frozen.images == 20


def _compute(folder: str, started: Any, counts: Any) -> None:
    os.environ["LITLENS_CACHE"] = folder

    class Slow(Columns):
        def __call__(self, images: Tensor) -> Tensor:
            time.sleep(0.2)
            return super().__call__(images)

    frozen = Slow()
    started.wait()
    fetch(dataset(frozen))
    counts.put(frozen.images)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks of this kind")
def test_one_process_computes_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, counts = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_compute, args=(str(tmp_path), started, counts)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(counts.get(timeout=60) for _ in processes) == [0, 20]
    for process in processes:
        process.join()


def test_without_frozen_layers_images_come() -> None:
    assert fetch(dataset(None)).shape == (5, 4, 6, 3)


class Noise(ImageDataModule):
    """40 images, 24 of them to train with; they know no files."""

    def __init__(self, shift: int = 0, mean: float = 0.5, **options: Any) -> None:
        options = {"normalize": {"mean": [mean] * 3, "std": [0.5] * 3}, **options}
        super().__init__(batch_size=8, **options)
        self.class_names, self.in_channels, self.image_size = ["a", "b"], 3, (32, 32)
        self.shift = shift

    def load(self) -> dict[str, Split]:
        pixels = np.random.default_rng(0).integers(0, 200, (40, 32, 32, 3)) + self.shift
        images = ArrayImages(pixels.astype(np.uint8))
        parts = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
        rows = {name: np.array(part) for name, part in parts.items()}
        return {name: Split(images, part, part % 2, [str(row) for row in part]) for name, part in rows.items()}


def trained(data: ImageDataModule, *, dry: bool = False, **options: Any) -> tuple[TransferClassifier, Trainer]:
    seed_everything(1, verbose=False)
    network = TransferNetwork(image_size=(32, 32), backbone="squeezenet1_1", head=[8], dropout=0.2)
    model = TransferClassifier(network, ["a", "b"], optimizer=partial(torch.optim.SGD, lr=0.1), **options)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        fast_dev_run=dry,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    return model, trainer


@pytest.mark.parametrize("options", [{"strategy": "frozen"}, {"strategy": "partial", "train_from": "features.11"}])
def test_cached_and_uncached_training_reach_the_same_weights(options: dict[str, Any]) -> None:
    cached, with_features = trained(Noise(), **options, cache_features=True)
    plain, with_images = trained(Noise(), **options, cache_features=False)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(cached.network.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    for name, value in with_images.callback_metrics.items():
        torch.testing.assert_close(with_features.callback_metrics[name], value, atol=1e-5, rtol=1e-4)
    # The test sees images.
    assert with_features.test(cached, datamodule=Noise(), verbose=False)[0]["loss/test"] == pytest.approx(
        with_images.test(plain, datamodule=Noise(), verbose=False)[0]["loss/test"], abs=1e-5
    )


def test_the_cache_may_be_switched_off_and_nothing_but_time_changes() -> None:
    """Three epochs of three views of anything that augments."""
    augment = ["rotation", {"horizontal_flip": {"alternate": True}}]
    options: dict[str, Any] = {"strategy": "frozen", "cached_augmentations": 3}
    cached, _ = trained(Noise(augment=augment), **options)
    plain, _ = trained(Noise(augment=augment), **options, cache_features=False)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(cached.network.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_dry_run_computes_no_cache(tmp_path: Path) -> None:
    trained(Noise(), strategy="frozen", dry=True)
    assert not list(tmp_path.glob("features-*"))


def test_the_cache_of_a_fit_ends_with_the_next_setup() -> None:
    data = Noise()
    trained(data, strategy="frozen")
    assert isinstance(data.train_dataloader().dataset, FeatureDataset)
    data.setup("fit")
    assert isinstance(data.train_dataloader().dataset, SplitDataset)
