"""From a checkpoint alone to a classifier that predicts the class of an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from litlens.checkpoints.reading import checkpoint_path, read_checkpoint
from litlens.checkpoints.record import rebuild
from litlens.data.decode import read_image
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.errors import UserError
from litlens.files import files_below, user_path
from litlens.models.classifier import ImageClassifier

Source = str | Path | bytes | Image.Image | Pixels


@dataclass(frozen=True, repr=False)
class LoadedClassifier:
    """A classifier in evaluation mode, and how it prepares images; `metadata` is the checkpoint's key `litlens`."""

    classifier: ImageClassifier
    preprocessing: Preprocessing | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        network = type(getattr(self.classifier, "network", self.classifier)).__name__
        return f"LoadedClassifier({type(self.classifier).__name__}({network}), {len(self.class_names)} classes)"

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the logits."""
        return list(self.classifier.class_names)

    def to(self, device: str | torch.device) -> "LoadedClassifier":
        """Move the classifier to the device on which it predicts; returns self."""
        self.classifier.to(device)
        return self

    def predict(
        self, images: Source | Sequence[Source], *, top_k: int | None = None, batch_size: int = 32
    ) -> dict[str, float] | list[dict[str, float]] | dict[str, dict[str, float]]:
        """Predict the probabilities of the classes, the most probable first: `{class: probability}`.

        An image is a path, the bytes of a file, a PIL image or an array (H, W) or (H, W, C), read as in training.
        A list of them, or an array (N, H, W, C), gives a list. The path of a folder gives a dict of the files in it and
        below, by their paths within it; hidden files and those of operating systems are left out. With `top_k`, only so
        many classes are given. The network gets `batch_size` images at a time.

        Raises UserError where an image cannot be read, or the checkpoint does not say how to prepare one.
        """
        for name, value in {"batch_size": batch_size, "top_k": top_k}.items():
            if value is not None and value < 1:
                raise UserError(f"{name}: {value}: give 1 or more")
        predict = partial(self._predict, top_k=top_k, batch_size=batch_size)
        if isinstance(images, str | Path) and user_path(images).is_dir():
            folder = user_path(images)
            files = sorted(map(Path, files_below(folder, key="images")))
            found = predict([(str(file), file) for file in files])
            return dict(zip((file.relative_to(folder).as_posix() for file in files), found, strict=True))
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, list | tuple):
            return predict([("image", images)])[0]
        return predict([(f"image {place}", image) for place, image in enumerate(images)])

    def prepare(self, image: Source, *, name: str = "image") -> Pixels:
        """Read an image as in training and resize it: uint8 (H, W, C), what `preprocessing.normalize` takes in batches.

        Raises BadImage, with the name unless the image is a path, where it cannot be read.
        """
        if self.preprocessing is None:
            raise UserError("the checkpoint does not say how to prepare images: pass preprocessing= to load_classifier")
        pixels = read_image(
            image,
            name=None if isinstance(image, str | Path) else name,
            channels=self.preprocessing.channels,
            value_range=self.preprocessing.value_range,
        )
        return self.preprocessing.resize(pixels)

    @torch.inference_mode()
    def _predict(
        self, images: Sequence[tuple[str, Any]], *, top_k: int | None, batch_size: int
    ) -> list[dict[str, float]]:
        found, names = [], self.class_names
        for start in range(0, len(images), batch_size):
            prepared = [self.prepare(image, name=name) for name, image in images[start : start + batch_size]]
            assert self.preprocessing is not None
            batch = self.preprocessing.normalize(np.stack(prepared)).to(self.classifier.device)
            probabilities = self.classifier(batch).float().softmax(dim=1)
            values, order = probabilities.sort(dim=1, descending=True, stable=True)
            for row, indices in zip(values[:, :top_k].tolist(), order[:, :top_k].tolist(), strict=True):
                found.append({names[index]: value for index, value in zip(indices, row, strict=True)})
        return found


def load_classifier(
    path: str | Path,
    network: nn.Module | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    trust: Sequence[str] = (),
) -> LoadedClassifier:
    """Rebuild a classifier from a checkpoint or run folder alone, without its data, its config or a download.

    `network` replaces the network that the checkpoint describes or cannot describe; it may be a complete classifier.
    Building a class runs its code: classes of litlens, torch, torchvision and timm are built, others only if they are
    imported already, or their module or package is named in `trust`.

    Raises UserError where the file is missing, damaged or not of litlens, names a class that is not trusted, or holds
    the weights of another network.
    """
    path = checkpoint_path(Path(path).expanduser())
    checkpoint = read_checkpoint(path)
    metadata = checkpoint["litlens"]
    try:
        classifier = rebuild(metadata.get("model", {}), network, trust)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        if not isinstance(metadata.get("model"), dict) or not {"class_path", "init_args"} <= set(metadata["model"]):
            raise UserError(f"{path} does not say how to rebuild its classifier: pass it as network=") from error
        raise
    try:
        classifier.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} holds the weights of another network: {reason[:300]}") from error
    stored = metadata.get("preprocessing")
    if preprocessing is None and stored is not None:
        preprocessing = Preprocessing.from_dict(stored)
    return LoadedClassifier(classifier.eval(), preprocessing, metadata)
