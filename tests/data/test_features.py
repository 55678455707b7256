"""Features are computed once, are those of the right images and weights, and make the same training."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from litlens.data import order
from litlens.data.augment import Augmentation
from litlens.data.features import FeatureDataset
from litlens.data.loader import SplitDataset
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Preprocessing
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError
from litlens.models.backbones import TransferNetwork
from litlens.models.transfer import TransferClassifier

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)


class Columns:
    """A fixed part whose features are the means of an image's columns, times a weight; it counts its images."""

    source = "columns"

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
    part: Columns | None,
    *,
    rows: Any = range(20),
    views: int = 1,
    mean: float = 0.5,
    memory: float = 1.0,
    about: Any = "data",
    dry: bool = False,
    steps: Any = None,
) -> FeatureDataset:
    rows = np.array(rows)
    split = Split(ArrayImages(PIXELS), rows, rows % 3, [str(row) for row in rows])
    prepared = Preprocessing(size=(4, 6), channels=3, mean=(mean,) * 3, std=(0.5,) * 3)
    augmentation = Augmentation(steps or [{"horizontal_flip": {"p": 1.0}}], image_size=(4, 6)) if views > 1 else None
    images = SplitDataset(split, preprocessing=prepared, augmentation=augmentation, seed=5)
    source: Any = SimpleNamespace(cached_augmentations=views, feature_memory=memory, fixed_part=lambda epoch: part)
    trainer: Any = SimpleNamespace(current_epoch=0, fast_dev_run=dry)
    about = [about, prepared.to_dict()]
    return FeatureDataset(images, source, trainer=trainer, name="train", about=about, owner="here", size=20)


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
    part = Columns()
    found = dataset(part)
    for epoch in range(3):
        fetch(found, epoch=epoch)
    assert part.images == 20 + 1  # one more tells the shape
    again = Columns()
    np.testing.assert_array_equal(fetch(dataset(again)), fetch(found))
    assert again.images == 1


def test_another_cut_into_splits_computes_what_is_missing_alone() -> None:
    fetch(dataset(Columns(), rows=range(12)))
    part = Columns()
    np.testing.assert_allclose(fetch(dataset(part, rows=range(10, 18))), expected(range(10, 15)), atol=1e-6)
    assert part.images == 6 + 1


@pytest.mark.parametrize(
    ("options", "weight", "mean"), [({}, 2.0, 0.5), ({"mean": 0.25}, 1.0, 0.25), ({"about": "other"}, 1.0, 0.5)]
)
def test_a_changed_key_is_a_new_cache(options: Any, weight: float, mean: float, tmp_path: Path) -> None:
    fetch(dataset(Columns()))
    part = Columns(weight)
    np.testing.assert_allclose(fetch(dataset(part, **options)), expected(range(5), mean=mean, weight=weight), atol=1e-6)
    assert part.images == 20 + 1
    assert len(list(tmp_path.glob("*.npy"))) == 1  # the old one is gone: nobody will ask for it again


def test_what_a_power_cut_left_half_written_is_computed_again(tmp_path: Path) -> None:
    fetch(dataset(Columns()))
    file = next(tmp_path.glob("*.npy"))
    table = np.load(file, mmap_mode="r+")
    table["features"][3, 1] += 1
    table["check"][8] = 0
    table.flush()
    part = Columns()
    np.testing.assert_allclose(fetch(dataset(part)), expected(range(5)), atol=1e-6)
    assert part.images == 2 + 1


def test_one_view_is_drawn_for_each_image_and_epoch() -> None:
    part = Columns()
    found = dataset(part, views=2)
    plain, mirrored = expected(range(20)), expected(range(20))[:, ::-1]
    drawn = []
    for epoch in range(40):
        values = fetch(found, range(20), epoch=epoch)
        is_plain = np.isclose(values, plain, atol=1e-5).all(1)
        assert (is_plain != np.isclose(values, mirrored, atol=1e-5).all(1)).all()
        drawn.append(is_plain)
        np.testing.assert_array_equal(fetch(dataset(Columns(), views=2), range(20), epoch=epoch), values)
    assert part.images == 40 + 2
    assert len({tuple(row) for row in drawn}) == 40
    assert 0.4 < np.mean(drawn) < 0.6


def test_other_steps_are_other_views_and_leave_the_plain_one() -> None:
    fetch(dataset(Columns(), views=2))
    part = Columns()
    fetch(dataset(part, views=3, steps=["vertical_flip"]))
    assert part.images == 40 + 3


def test_a_view_is_the_same_for_every_seed_and_differs_from_the_next() -> None:
    draws = [order.view_rng(view=view, row=row).random() for view in (1, 2) for row in (0, 1)]
    assert len(set(draws)) == 4
    assert draws[0] == order.view_rng(view=1, row=0).random()
    assert set(order.drawn_views(seed=0, epoch=3, indices=np.arange(99), views=3)) == {0, 1, 2}


def test_a_dry_run_computes_the_batch_alone() -> None:
    part = Columns()
    np.testing.assert_allclose(fetch(dataset(part, dry=True)), expected(range(5)), atol=1e-6)
    assert part.images == 5 + 1


def test_without_a_fixed_part_images_come() -> None:
    assert fetch(dataset(None)).shape == (5, 3, 4, 6)


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


def trained(data: ImageDataModule, **options: Any) -> tuple[TransferClassifier, Trainer]:
    seed_everything(1, verbose=False)
    network = TransferNetwork(image_size=(32, 32), backbone="squeezenet1_1", head=[8], dropout=0.2)
    model = TransferClassifier(network, ["a", "b"], optimizer=partial(torch.optim.SGD, lr=0.1), **options)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
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


@pytest.mark.parametrize(
    ("views", "augment", "told"),
    [
        (1, ["horizontal_flip"], "cached_augmentations: of augmented images at least 2"),
        (3, None, "cached_augmentations: 3 views of an image that nothing augments are all the same"),
        (3, [], "cached_augmentations: 3 views of an image that nothing augments are all the same"),
    ],
)
def test_views_and_augmentation_go_together(views: int, augment: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        trained(Noise(augment=augment), strategy="frozen", cached_augmentations=views)
    assert "\n" not in str(caught.value)


def test_other_pixels_without_files_are_other_features(tmp_path: Path) -> None:
    trained(Noise())
    before = {file.name for file in tmp_path.glob("features-*")}
    trained(Noise(shift=3))
    after = {file.name for file in tmp_path.glob("features-*")}
    assert len(before) == len(after) == 1
    assert before != after


def test_two_ways_to_prepare_the_images_keep_their_features_side_by_side(tmp_path: Path) -> None:
    kept = []
    for resize_mode, mean in (("crop", 0.5), ("squash", 0.5), ("crop", 0.25), ("crop", 0.5)):
        data = Noise(mean=mean)
        data.resize_mode = resize_mode  # type: ignore[assignment]
        trained(data)
        kept.append({file.name for file in tmp_path.glob("features-*")})
    assert [len(files) for files in kept] == [1, 2, 3, 3]
    assert kept[0] < kept[1] < kept[2] == kept[3]


def test_a_mean_that_follows_from_the_pixels_keeps_no_old_features(tmp_path: Path) -> None:
    for shift in (0, 3):
        trained(Noise(shift, normalize="auto"))
    assert len(list(tmp_path.glob("features-*"))) == 1
