"""From a checkpoint alone to a classifier that predicts the class of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        self, images: Source | Sequence[Source], *, batch_size: int = 32
    ) -> dict[str, float] | list[dict[str, float]]:
        """Predict the probability of every class, the most probable first: `{class: probability}`.

        An image is a path, the bytes of a file, a PIL image or an array (H, W) or (H, W, C), read as in training.
        A list of them, or an array (N, H, W, C), gives a list; the network gets `batch_size` of them at a time.

        Raises UserError where an image cannot be read, or the checkpoint does not say how to prepare one.
        """
        if self.preprocessing is None:
            raise UserError("the checkpoint does not say how to prepare images: pass preprocessing= to load_classifier")
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size}: give 1 or more images")
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, list | tuple):
            return self._predict({"image": images})[0]
        named = [(f"image {place}", image) for place, image in enumerate(images)]
        batches = (dict(named[start : start + batch_size]) for start in range(0, len(named), batch_size))
        return [one for batch in batches for one in self._predict(batch)]

    @torch.inference_mode()
    def _predict(self, images: Mapping[str, Any]) -> list[dict[str, float]]:
        """The probabilities of images; an error names a path by itself and any other image by its key."""
        assert self.preprocessing is not None
        prepared = np.stack(
            [
                self.preprocessing.resize(
                    read_image(
                        image,
                        name=None if isinstance(image, str | Path) else name,
                        channels=self.preprocessing.channels,
                        value_range=self.preprocessing.value_range,
                    )
                )
                for name, image in images.items()
            ]
        )
        batch = self.preprocessing.normalize(prepared).to(self.classifier.device)
        probabilities, order = self.classifier(batch).float().softmax(dim=1).sort(dim=1, descending=True)
        names = self.class_names
        return [
            {names[index]: probability for index, probability in zip(indices, values, strict=True)}
            for indices, values in zip(order.tolist(), probabilities.tolist(), strict=True)
        ]


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
