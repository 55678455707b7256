"""Large images are normalized to the same bits, and memory is used again only where nobody holds it."""

from typing import Any

import numpy as np
import pytest
import torch

from litlens.data.batch_memory import BatchMemory
from litlens.data.loader import EvaluationLoader, SplitDataset
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.data.split import ArrayImages, Split


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_normalized_by_a_table_to_the_same_bits(channels: int, threads: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(7, 97, 101, channels), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    prepared = Preprocessing(Resize((97, 101)), Normalize(mean, std))
    split = Split(ArrayImages(pixels), np.arange(7), np.arange(7), names=[str(row) for row in range(7)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    loader = EvaluationLoader(SplitDataset(split, prepared), batch_size=5)
    seen = [images.clone() for images, _ in loader]  # while the next batch may take the memory of one before
    torch.set_num_threads(before)
    by_hand = (
        pixels.astype(np.float32) * (1 / (255 * np.float32(std))) - np.float32(mean) / np.float32(std)
    ).transpose(0, 3, 1, 2)
    assert np.array_equal(torch.cat(seen).numpy(), by_hand)
    assert [images.is_contiguous(memory_format=torch.channels_last) for images in seen] == [True, True]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes of the memory that is asked for: the system may give the same place again by itself."""
    shapes, empty = [], np.empty

    def counted(shape: Any, *rest: Any) -> Any:
        shapes.append(shape)
        return empty(shape, *rest)

    monkeypatch.setattr(np, "empty", counted)
    return shapes


def test_a_batch_that_somebody_holds_keeps_its_numbers(made: list[Any]) -> None:
    memory, held = BatchMemory(), []
    made.clear()
    for number in range(12):
        images = memory.take((2, 8, 8, 3)).fill_(number).permute(0, 3, 1, 2)
        if number % 3 == 0:  # by a view, or by an array of one
            held.append(images[0, 0, :2] if number % 2 else images[1, 0].numpy())
        del images
    assert [float(part[1, 0]) for part in held] == [0, 3, 6, 9]
    assert len(made) == 5  # four that are held and one that all others had


def test_a_loader_uses_the_memory_of_its_batches_again(made: list[Any]) -> None:
    pixels = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(96, 1).repeat(96, 2)
    prepared = Preprocessing(Resize((96, 96)), Normalize((0.0,), (1 / 255,)))
    split = Split(ArrayImages(pixels), np.arange(9), np.arange(9), names=[str(row) for row in range(9)])
    seen = [float(images[0, 0, 95, 95]) for images, _ in EvaluationLoader(SplitDataset(split, prepared), batch_size=1)]
    assert seen == list(range(9))
    assert made.count((1, 96, 96, 1)) == 2  # the batch at hand, and the one that is made
