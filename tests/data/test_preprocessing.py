import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from litlens.constants import NORMALIZATIONS
from litlens.data.preprocessing import Normalize, Preprocessing, Resize, ResizeMode
from litlens.errors import UserError

MODES = st.sampled_from(["crop", "squash", "pad"])


@given(width=st.integers(1, 40), height=st.integers(1, 40), mode=MODES, channels=st.sampled_from([1, 3]))
def test_any_image_is_resized_to_the_size(width: int, height: int, mode: ResizeMode, channels: int) -> None:
    pixels = Resize((6, 8), mode)(np.zeros((height, width, channels), dtype=np.uint8))
    assert pixels.shape == (6, 8, channels)
    assert pixels.dtype == np.uint8


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for mode in ("crop", "squash", "pad"):
        assert np.array_equal(Resize((6, 8), mode)(pixels), pixels)


def test_crop_keeps_the_center_squash_everything_and_pad_adds_black() -> None:
    """A 2:1 image, left half black, right half white, brought to a square."""
    halves = np.zeros((10, 20, 1), dtype=np.uint8)
    halves[:, 10:] = 255
    square = {mode: Resize((10, 10), mode)(halves)[..., 0] for mode in ("crop", "squash", "pad")}
    assert square["crop"][:, :4].max() == 0
    assert square["crop"][:, 6:].min() == 255
    assert square["squash"].mean() == pytest.approx(127.5, abs=3)
    assert square["pad"][:2].max() == 0
    assert square["pad"][-2:].max() == 0
    assert square["pad"][4:6, 7:].min() == 255


def test_normalize_agrees_with_torchvision() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(2, 5, 7, 3), dtype=np.uint8)
    mean, std = NORMALIZATIONS["imagenet"]
    ours = Normalize(mean, std)(pixels)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(
        torch.from_numpy(pixels).permute(0, 3, 1, 2)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_plain_values_and_back(tmp_path: Path) -> None:
    """Through a file of plain values, as in a checkpoint."""
    preprocessing = Preprocessing(Resize((6, 8), "pad"), Normalize((0.5,) * 3, (0.25,) * 3), value_range=(0, 4095))
    torch.save(preprocessing.to_dict(), tmp_path / "plain.pt")
    values = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert values["resize"] == {"size": (6, 8), "mode": "pad"}
    assert Preprocessing.from_dict(values) == preprocessing
    assert preprocessing.channels == 3
    assert dataclasses.replace(preprocessing, normalize=Normalize((0.5,), (0.25,))).channels == 1


@pytest.mark.parametrize(
    ("mean", "std", "line"),
    [
        ((0.5,) * 3, (0.5,), r"normalize: mean \[0.5, 0.5, 0.5\] and std \[0.5\]: give one value per channel"),
        ((0.5,) * 3, (0.5, 0.5, 0.0), r"normalize: std \[0.5, 0.5, 0.0\]: give values above 0"),
    ],
)
def test_impossible_constants_are_one_line(mean: tuple[float, ...], std: tuple[float, ...], line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}$"):
        Normalize(mean, std)


@pytest.mark.parametrize(("folder", "name"), [("MNIST", "mnist"), ("FashionMNIST", "fashion")])
def test_known_constants_are_those_of_the_training_images(shared_data: Path, folder: str, name: str) -> None:
    content = gzip.decompress((shared_data / folder / "raw" / "train-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(content, dtype=np.uint8, offset=16) / 255
    mean, std = NORMALIZATIONS[name]
    assert mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert std[0] == pytest.approx(pixels.std(), abs=1e-4)


@pytest.mark.parametrize(
    ("mode", "size", "image_box", "map_box"),
    [
        ("crop", (30, 100), (30, 0, 70, 30), (0, 0, 8, 6)),  # 4:3 of 30 high is 40 wide
        ("crop", (101, 40), (0, 35.5, 40, 65.5), (0, 0, 8, 6)),
        ("squash", (33, 7), (0, 0, 7, 33), (0, 0, 8, 6)),
        ("pad", (20, 80), (0, 0, 80, 20), (0, 2, 8, 4)),
        ("pad", (33, 7), (0, 0, 7, 33), (3, 0, 4, 6)),  # 1.27 wide, hence 1, and 3 of the 7 left over before it
        ("pad", (6, 8), (0, 0, 8, 6), (0, 0, 8, 6)),
    ],
)
def test_boxes_by_hand(
    mode: ResizeMode, size: tuple[int, int], image_box: tuple[float, ...], map_box: tuple[int, ...]
) -> None:
    assert Resize((6, 8), mode).boxes(size) == (image_box, map_box)


@given(height=st.integers(1, 60), width=st.integers(1, 60), mode=MODES, channels=st.sampled_from([1, 3]))
def test_boxes_describe_what_resize_does(height: int, width: int, mode: ResizeMode, channels: int) -> None:
    """Pillow's own crop and resize between the boxes give what `Resize` gives, and it shows nothing else."""
    rng = np.random.default_rng(height * 61 + width)
    original = rng.integers(1, 256, size=(height, width, channels), dtype=np.uint8)
    image_box, (left, upper, right, lower) = Resize((6, 8), mode).boxes((height, width))
    image = Image.fromarray(original.squeeze(2) if channels == 1 else original)
    shown = image.resize((right - left, lower - upper), Image.Resampling.BICUBIC, box=image_box)
    expected = np.zeros((6, 8, channels), dtype=np.uint8)
    expected[upper:lower, left:right] = np.asarray(shown).reshape(lower - upper, right - left, channels)
    assert np.array_equal(Resize((6, 8), mode)(original), expected)
    assert 0 <= image_box[0] < image_box[2] <= width
    assert 0 <= image_box[1] < image_box[3] <= height
