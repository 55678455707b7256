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
from litlens.data.preprocessing import Preprocessing, ResizeMode
from litlens.errors import UserError


def make(resize_mode: ResizeMode = "crop", channels: int = 3, size: tuple[int, int] = (6, 8)) -> Preprocessing:
    return Preprocessing(
        size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels, resize_mode=resize_mode
    )


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]),
    resize_mode=st.sampled_from(["crop", "squash", "pad"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_comes_out_at_the_network_size(
    width: int, height: int, mode: str, resize_mode: ResizeMode, channels: int
) -> None:
    pixels = make(resize_mode, channels).geometry(Image.new(mode, (width, height)))
    assert pixels.shape == (6, 8, channels)
    assert pixels.dtype == np.uint8


def test_a_image_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for resize_mode in ("crop", "squash", "pad"):
        assert np.array_equal(make(resize_mode).geometry(pixels), pixels)


def test_crop_keeps_the_centre_squash_the_whole_and_pad_adds_black() -> None:
    """A 2:1 image, left half black, right half white, brought to a square."""
    halves = np.zeros((10, 20, 1), dtype=np.uint8)
    halves[:, 10:] = 255
    square = {
        resize_mode: make(resize_mode, channels=1, size=(10, 10)).geometry(halves)[..., 0]
        for resize_mode in ("crop", "squash", "pad")
    }
    assert square["crop"][:, :4].max() == 0
    assert square["crop"][:, 6:].min() == 255
    assert square["squash"].mean() == pytest.approx(127.5, abs=3)
    assert square["pad"][:2].max() == 0
    assert square["pad"][-2:].max() == 0
    assert square["pad"][4:6, 7:].min() == 255


def test_normalize_agrees_with_torchvision() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(2, 5, 7, 3), dtype=np.uint8)
    mean, std = NORMALIZATIONS["imagenet"]
    ours = Preprocessing(size=(5, 7), channels=3, mean=mean, std=std).normalize(pixels)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(
        torch.from_numpy(pixels).permute(0, 3, 1, 2)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_plain_values_and_back() -> None:
    prepared = make("pad")
    assert Preprocessing.from_dict(prepared.to_dict()) == prepared
    assert prepared.to_dict()["size"] == [6, 8]


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.5, 0.0))])
def test_statistics_that_cannot_be_are_one_line(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="normalize"):
        Preprocessing(size=(2, 2), channels=3, mean=mean, std=std)


@pytest.mark.parametrize(("folder", "name"), [("MNIST", "mnist"), ("FashionMNIST", "fashion")])
def test_known_constants_are_those_of_the_training_images(shared_data: Path, folder: str, name: str) -> None:
    content = gzip.decompress((shared_data / folder / "raw" / "train-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(content, dtype=np.uint8, offset=16) / 255
    mean, std = NORMALIZATIONS[name]
    assert mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert std[0] == pytest.approx(pixels.std(), abs=1e-4)


@pytest.mark.parametrize(
    ("resize_mode", "size", "photo_box", "map_box"),
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
    resize_mode: ResizeMode, size: tuple[int, int], photo_box: tuple[float, ...], map_box: tuple[int, ...]
) -> None:
    assert make(resize_mode).boxes(size) == (photo_box, map_box)


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    resize_mode=st.sampled_from(["crop", "squash", "pad"]),
)
def test_boxes_say_what_geometry_does(height: int, width: int, resize_mode: ResizeMode) -> None:
    """Pillow's own crop and resize between the boxes give what `geometry` gives, and it shows nothing else."""
    photo = np.random.default_rng(height * 61 + width).integers(1, 256, size=(height, width, 3), dtype=np.uint8)
    photo_box, (left, upper, right, lower) = make(resize_mode).boxes((height, width))
    shown = Image.fromarray(photo).resize((right - left, lower - upper), Image.Resampling.BICUBIC, box=photo_box)
    expected = np.zeros((6, 8, 3), dtype=np.uint8)
    expected[upper:lower, left:right] = np.asarray(shown)
    assert np.array_equal(make(resize_mode).geometry(photo), expected)
    assert 0 <= photo_box[0] < photo_box[2] <= width
    assert 0 <= photo_box[1] < photo_box[3] <= height
