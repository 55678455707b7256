"""Small random data and weights in the formats of the real ones, at the paths that the shipped configs name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights, get_model

# MNIST's own file names; 5,000 of the training images are for validation.
_IDX_IMAGES = {"train": 5040, "t10k": 40}
_CHARS74K_CLASSES, _CHARS74K_FONTS = 62, 12


def write_stand_ins(folder: Path) -> Path:
    """Write `data`, `weights` and a `torch` hub cache with the weights that torchvision would download."""
    rng = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        _write_idx(folder / "data" / name / "raw", rng)
    _write_chars74k(folder / "data" / "chars74k" / "EnglishFnt.tgz", rng)
    for split, number in (("train", 12), ("test", 4)):
        for label in ("Cat", "Dog"):
            _write_jpegs(folder / "data" / "catanddog" / split / label, number, rng)
    for label in ("cat", "dog"):
        _write_jpegs(folder / "data" / "catdog_2k" / label, 20, rng)
    # As in the files that the configs name: half precision, and no classifier.
    for backbone in ("vgg16", "mobilenet_v2"):
        _write_weights(folder / "weights" / f"{backbone}_imagenet_features.pth", backbone, only="features.")
    _write_weights(folder / "weights" / "squeezenet1_1_imagenet.pth", "squeezenet1_1")
    for backbone, known in (("resnet18", ResNet18_Weights), ("mobilenet_v2", MobileNet_V2_Weights)):
        _write_weights(folder / "torch" / "hub" / "checkpoints" / Path(known.DEFAULT.url).name, backbone)
    return folder


def _write_idx(folder: Path, rng: np.random.Generator) -> None:
    """Four files of big-endian IDX: 0, 0, 8 for uint8, the number of dimensions, their sizes, the values."""
    folder.mkdir(parents=True)
    for part, number in _IDX_IMAGES.items():
        labels = np.resize(np.arange(10, dtype=np.uint8), number)
        pixels = rng.integers(256, size=(number, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())


def _write_chars74k(path: Path, rng: np.random.Generator) -> None:
    """`English/Fnt/Sample001/img001-00001.png`: class and font, both from 1; here every font is a family of its own."""
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(1, _CHARS74K_CLASSES + 1):
            for font in range(1, _CHARS74K_FONTS + 1):
                content = io.BytesIO()
                Image.fromarray(rng.integers(256, size=(12, 12), dtype=np.uint8)).save(content, "PNG")
                member = tarfile.TarInfo(f"English/Fnt/Sample{number:03}/img{number:03}-{font:05}.png")
                member.size = content.tell()
                content.seek(0)
                archive.addfile(member, content)


def _write_jpegs(folder: Path, number: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for index in range(number):
        height, width = rng.integers(60, 100, size=2)
        pixels = rng.integers(256, size=(height // 10, width // 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{index:04}.jpg")


def _write_weights(path: Path, backbone: str, *, only: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = get_model(backbone, weights=None).state_dict()
    torch.save(
        {
            key: value.half() if value.is_floating_point() else value
            for key, value in state.items()
            if key.startswith(only)
        },
        path,
    )
