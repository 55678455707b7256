"""Distortions against NumPy, SciPy, torchvision and hand counts, and what the lectures claim of CNNs and MLPs."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torchvision.transforms.v2.functional
from torch import nn

from litlens.data.datasets.arrays import MNISTDataModule
from litlens.data.preprocessing import Normalize, Pixels, Preprocessing, Resize
from litlens.evaluation.distortions import (
    DISTORTIONS,
    DistortedAccuracy,
    chosen_images,
    distort,
    number_of_points,
    robustness,
    robustness_figure,
)
from litlens.evaluation.scores import Interval
from litlens.evaluation.style import pixels as drawn
from litlens.models.networks.mlp import MLP


def images(count: int = 8, size: tuple[int, int] = (20, 30), channels: int = 3, smooth: float = 0) -> Pixels:
    noise = np.random.default_rng(0).random((count, *size, channels))
    if smooth:
        noise = scipy.ndimage.gaussian_filter(noise, (0, smooth, smooth, 0))
        noise = (noise - noise.min()) / np.ptp(noise)
    return np.rint(255 * noise).astype(np.uint8)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_strength_0_of_every_distortion_is_the_image_itself(name: str) -> None:
    assert 0 in DISTORTIONS[name].strengths
    for channels in (1, 3):
        before = images(channels=channels)
        kept = before.copy()
        assert np.array_equal(distort(before, name, 0), kept)
        spoilt = distort(before, name, DISTORTIONS[name].strengths[-1])
        assert (spoilt.dtype, spoilt.shape) == (np.uint8, before.shape)
        assert not np.array_equal(spoilt, kept)
        assert np.array_equal(before, kept)
        # However many images there are, each gets its own way and noise.
        assert np.array_equal(distort(before[:3], name, 20), distort(before, name, 20)[:3])


def test_a_shift_is_numpys_roll_inside_and_repeats_the_edge() -> None:
    before = images(40)
    after = distort(before, "shift", 10)  # 2 of 20 rows, or 3 of 30 columns
    found = []
    for one, other in zip(before, after, strict=True):
        rolled = {
            "down": (np.roll(one, 2, axis=0)[2:], other[2:], other[:2] == one[:1]),
            "up": (np.roll(one, -2, axis=0)[:-2], other[:-2], other[-2:] == one[-1:]),
            "right": (np.roll(one, 3, axis=1)[:, 3:], other[:, 3:], other[:, :3] == one[:, :1]),
            "left": (np.roll(one, -3, axis=1)[:, :-3], other[:, :-3], other[:, -3:] == one[:, -1:]),
        }
        way = [key for key, (inside, got, edge) in rolled.items() if np.array_equal(inside, got) and edge.all()]
        assert len(way) == 1
        found += way
    assert set(found) == {"down", "up", "right", "left"}


def test_a_rotation_is_scipys_and_a_quarter_turn_is_exact() -> None:
    square = images(20, size=(21, 21))
    for one, turned in zip(square, distort(square, "rotation", 90), strict=True):
        assert any(np.array_equal(turned, np.rot90(one, way)) for way in (1, -1))
    before = images(20, size=(40, 56), smooth=4)
    ways = []
    for one, turned in zip(before, distort(before, "rotation", 30), strict=True):
        gaps = [
            np.abs(
                scipy.ndimage.rotate(one.astype(float), way * 30, reshape=False, order=1, mode="nearest") - turned
            ).max()
            for way in (1, -1)
        ]
        assert min(gaps) < 3 < 20 < max(gaps)
        ways.append(int(np.argmin(gaps)))
    assert set(ways) == {0, 1}


@pytest.mark.parametrize("percent", [-40, 30])
def test_a_scale_is_scipys(percent: float) -> None:
    before = images(3, size=(40, 56), smooth=4)
    factor = 1 + percent / 100
    for one, scaled in zip(before, distort(before, "scale", percent), strict=True):
        center = (np.array(one.shape) - 1) / 2
        matrix = np.diag([1 / factor, 1 / factor, 1])
        expected = scipy.ndimage.affine_transform(
            one.astype(float), matrix, offset=center - matrix @ center, order=1, mode="nearest"
        )
        assert np.abs(expected - scaled).max() < 3


@pytest.mark.parametrize("percent", [4, 10])
def test_a_blur_is_scipys(percent: float) -> None:
    before = images(3, size=(40, 56))
    sigma = 40 * percent / 100
    expected = scipy.ndimage.gaussian_filter(before.astype(float), (0, sigma, sigma, 0), mode="nearest")
    assert np.abs(distort(before, "blur", percent) - expected).max() < 3


def test_noise_has_its_deviation_and_touches_no_global_state() -> None:
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    gray = np.full((4, 60, 60, 1), 128, dtype=np.uint8)
    noise = distort(gray, "noise", 10).astype(float) - 128
    assert noise.std() == pytest.approx(25.5, rel=0.03)
    assert abs(noise.mean()) < 1
    assert scipy.stats.kstest(noise.ravel() / 25.5, "norm").statistic < 0.02
    # The same noise, only stronger: of two strengths, one is not luckier than the other.
    assert np.abs(distort(gray, "noise", 20).astype(float) - 128 - 2 * noise)[np.abs(noise) < 60].max() <= 1.5
    assert not np.array_equal(distort(gray, "noise", 10, seed=1), distort(gray, "noise", 10))
    assert states == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_contrast_by_hand_and_by_torchvision() -> None:
    by_hand = np.array([[[[0], [100]], [[100], [200]]]], dtype=np.uint8)
    assert distort(by_hand, "contrast", 50)[0, ..., 0].tolist() == [[50, 100], [100, 150]]
    before = images(channels=1)
    tensors = torch.from_numpy(before).permute(0, 3, 1, 2).float() / 255
    expected = 255 * torchvision.transforms.v2.functional.adjust_contrast(tensors, 0.4).permute(0, 2, 3, 1).numpy()
    assert np.abs(distort(before, "contrast", 60) - expected).max() <= 0.51


class Threshold(nn.Module):
    """Class 1 where the mean of the normalized image is above 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_accuracies_are_counted_with_wilsons_interval() -> None:
    before = images(300, size=(6, 6), channels=1)
    prepared = Preprocessing(Resize((6, 6)), Normalize((0.5,), (0.25,)))
    labels = np.random.default_rng(1).integers(2, size=300)
    network = Threshold().train()
    points = list(robustness(network, prepared, before, labels))
    assert len(points) == number_of_points()
    assert network.training
    hits = int(((before.mean((1, 2, 3)) > 127.5) == labels).sum())
    plain = scipy.stats.binomtest(hits, 300).proportion_ci(method="wilson")
    for name, distortion in DISTORTIONS.items():
        own = [point for point in points if point.distortion == name]
        assert tuple(point.strength for point in own) == distortion.strengths
        (zero,) = (point.accuracy for point in own if point.strength == 0)
        assert (zero.value, zero.low, zero.high) == (hits / 300, plain.low, plain.high)
        for point in own:
            means = prepared.normalize(distort(before, name, point.strength)).double().mean((1, 2, 3))
            assert point.accuracy.value == pytest.approx(((means > 0).numpy() == labels).mean(), abs=1 / 300)


def test_large_images_go_in_small_batches() -> None:
    sizes = []
    network = Threshold()
    network.register_forward_hook(lambda _network, _inputs, logits: sizes.append(len(logits)))
    prepared = Preprocessing(Resize((224, 224)), Normalize((0.5,), (0.25,)))
    next(robustness(network, prepared, np.zeros((50, 224, 224, 1), dtype=np.uint8), np.zeros(50, dtype=np.int64)))
    assert sum(sizes) == 50
    assert max(sizes) <= 32


def test_which_images_are_tried() -> None:
    chosen = chosen_images(10_000, (28, 28))
    assert len(np.unique(chosen)) == 2000
    assert chosen.min() >= 0
    assert chosen.max() < 10_000
    assert np.all(np.diff(chosen) > 0)
    assert np.array_equal(chosen, chosen_images(10_000, (64, 64)))
    assert not np.array_equal(chosen, chosen_images(10_000, (28, 28), seed=1))
    assert chosen_images(98, (224, 224)).tolist() == list(range(98))
    assert len(chosen_images(10_000, (128, 128))) == 500
    assert len(chosen_images(10_000, (224, 224))) == 250


def made_up_points(start: float) -> list[DistortedAccuracy]:
    return [
        DistortedAccuracy(name, strength, Interval(value, value - 0.02, value + 0.01))
        for name, distortion in DISTORTIONS.items()
        for strength in distortion.strengths
        for value in [start - abs(strength) / 200]
    ]


@pytest.mark.parametrize("runs", [1, 2, 9])
def test_the_figure_shows_every_run_in_every_panel(runs: int) -> None:
    names = [f"$x$ <b> a run with quite a long name that ends in {number}" for number in range(runs)]
    figure = robustness_figure({name: made_up_points(0.9 - 0.05 * number) for number, name in enumerate(names)})
    assert [axes.get_title(loc="left").lower() for axes in figure.axes] == list(DISTORTIONS)
    for axes, distortion in zip(figure.axes, DISTORTIONS.values(), strict=True):
        assert len(axes.lines) == len(axes.collections) == runs
        assert axes.lines[0].get_xdata().tolist() == list(distortion.strengths)
        expected = [90 - abs(strength) / 2 for strength in distortion.strengths]
        np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [min(expected) - 2, max(expected) + 1])
    assert len(figure.legends[0].get_texts()) == runs
    image = drawn(figure)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert np.all(edge == 255)


def test_a_cnn_is_robust_to_a_shift_and_an_mlp_is_not(shared_data: Path) -> None:
    """Both see 6,000 digits of MNIST three times, none of them shifted."""
    data = MNISTDataModule(root=shared_data)
    data.setup()
    train, test = data.samples("train"), data.samples("test")
    images = data.preprocessing.normalize(train.images.batch(train.rows[:6000]))
    labels = torch.from_numpy(train.labels[:6000])
    pixels, truth = test.images.batch(test.rows[:1000]), test.labels[:1000]

    def accuracies(network: nn.Module, *, lr: float) -> dict[float, Interval]:
        optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for rows in torch.randperm(6000, generator=generator).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
        points = robustness(network, data.preprocessing, pixels, truth)
        return {point.strength: point.accuracy for point in points if point.distortion == "shift"}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = accuracies(MLP(widths=[128]), lr=0.002)
        cnn = accuracies(
            nn.Sequential(
                *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU()),
                *(nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU()),
                *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
                *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
            ),
            lr=0.003,
        )
    assert mlp[0].value > 0.85
    assert cnn[0].value > 0.9
    # By 10 %, three pixels, the MLP has lost half of its digits, the CNN a few.
    assert mlp[0].low - mlp[10].high > 0.4
    assert cnn[0].value - cnn[10].value < 0.08
    assert cnn[10].low > mlp[10].high
