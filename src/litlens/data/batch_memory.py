"""Batches of large images on a CPU: made in threads, and normalized into memory that is used again."""

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litlens.data.preprocessing import Normalize, Pixels

_LARGE = 96 * 96  # pixels of images that several threads augment: of smaller ones Python's part, which waits, is larger
_MOST_THREADS = 8
_AT_ONCE = 2**17  # numbers that are looked up in one call: OpenCV divides more of them among threads of its own
_KEPT = 4  # batches: the one of the step, those that Lightning fetches ahead, and the one that is made


class BatchMemory:
    """Memory of batches, used again once nobody holds the batch: new memory costs as much as the normalization.

    A tensor, any view of it and any array made from it keep the array that it was made from.
    """

    def __init__(self) -> None:
        # The first array is never given away. One that has as many references as this one is unused.
        self._arrays = [np.empty(0, np.float32)]

    def take(self, shape: Sequence[int]) -> Tensor:
        """A tensor, float32 and uninitialized, in memory of one of the last `_KEPT` batches where one is unused."""
        unused, *references = map(sys.getrefcount, self._arrays)
        for array, number in zip(self._arrays[1:], references, strict=True):
            if number == unused and array.shape[1:] == shape[1:] and len(array) >= shape[0]:
                return torch.from_numpy(array)[: shape[0]]
        # NumPy asks for huge pages, and torch does not: with them, memory of 38 MB, a batch at 224×224, is there
        # three times as fast (numpy/numpy, commit 7180479b7ce3).
        self._arrays = [self._arrays[0], *self._arrays[1:][1 - _KEPT :], np.empty(shape, np.float32)]
        return torch.from_numpy(self._arrays[-1])


def number_of_threads(size: Sequence[int]) -> int:
    """Threads for images of a size: as many as the network has here, one in a worker process; one for small images."""
    return 1 if math.prod(size) < _LARGE else min(torch.get_num_threads(), _MOST_THREADS)


def in_threads(work: Callable[[int, range], None], shape: Sequence[int]) -> None:
    """Do the work for images of a shape (B, H, W, C): each thread is given its number and its places in the batch."""
    number, threads = shape[0], number_of_threads(shape[1:3])
    if threads == 1:
        work(0, range(number))
        return
    with ThreadPoolExecutor(threads) as pool:
        # A list, which raises what one of them has raised.
        list(pool.map(lambda thread: work(thread, range(thread, number, threads)), range(threads)))


def normalized(images: Tensor, normalize: Normalize, memory: BatchMemory) -> Tensor:
    """Normalize a batch, uint8 (B, H, W, C), to float32 (B, C, H, W); of large images in threads."""
    if math.prod(images.shape[1:3]) < _LARGE:
        return normalize(images)
    floats = memory.take(images.shape)
    pixels, numbers = images.numpy(), floats.numpy()

    def of_thread(_thread: int, places: range) -> None:
        for place in places:
            look_up(pixels[place], normalize.table, numbers[place])

    in_threads(of_thread, images.shape)
    return floats.permute(0, 3, 1, 2)


def look_up(image: Pixels, table: NDArray[np.float32], numbers: NDArray[np.float32]) -> None:
    """Normalize an image (H, W, C) into `numbers` in one pass over memory, where torch makes three."""
    import cv2  # which takes a tenth of a second

    rows = max(1, _AT_ONCE // math.prod(image.shape[1:]))
    for start in range(0, len(image), rows):
        cv2.LUT(image[start : start + rows], table, numbers[start : start + rows])
