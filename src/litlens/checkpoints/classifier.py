"""From a checkpoint alone to a classifier that names what is on an image."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from litlens.checkpoints.reading import read_checkpoint
from litlens.data.decode import read_image
from litlens.data.preprocessing import Preprocessing
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier

_TRUSTED = ("litlens", "torch", "torchvision")


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier in evaluation mode, and how it reads images; `about` is the checkpoint's key `litlens`."""

    classifier: ImageClassifier
    preprocessing: Preprocessing | None
    about: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the logits."""
        return list(self.about["class_names"])

    @torch.inference_mode()
    def predict(self, image: str | Path | Image.Image) -> dict[str, float]:
        """The classes of an image, given as a file or decoded, with their probabilities, the likeliest first.

        Raises UserError where the file is no image, or the checkpoint does not say how to prepare one.
        """
        if self.preprocessing is None:
            raise UserError("the checkpoint does not say how to prepare images: pass preprocessing= to load_classifier")
        decoded = image if isinstance(image, Image.Image) else read_image(Path(image))
        images = self.preprocessing.normalize(self.preprocessing.geometry(decoded)[None])
        probabilities = self.classifier(images)[0].softmax(dim=0).tolist()
        ranking = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
        return {self.class_names[index]: probabilities[index] for index in ranking}


def load_classifier(
    path: str | Path, *, preprocessing: Preprocessing | None = None, trust: Sequence[str] = ()
) -> LoadedClassifier:
    """Rebuild a classifier from a checkpoint file alone, without its data, its config or a download.

    Builds classes of litlens, torch and torchvision, and of others only those that are imported already or whose
    top-level package is named in `trust`, since building a class runs its code.

    Raises UserError where the file is missing, damaged or not litlens', or names a class that is not trusted.
    """
    checkpoint = read_checkpoint(path)
    about = checkpoint["litlens"]
    try:
        spec = about["model"]["init_args"]["network"]
        network = _build(spec, trust=trust, path=path)
        arguments = {**about["model"]["init_args"], "network": network}
        classifier = _class(about["model"]["class_path"], trust=trust, path=path)(**arguments)
    except KeyError as error:
        raise UserError(f"{path} does not say how its network was built (key {error} is missing)") from error
    classifier.load_state_dict(checkpoint["state_dict"])
    stored = about.get("preprocessing")
    if preprocessing is None and stored is not None:
        preprocessing = Preprocessing.from_dict(stored)
    return LoadedClassifier(classifier.eval(), preprocessing, about)


def is_trusted(class_path: str, *, trust: Sequence[str] = ()) -> bool:
    """Whether a class that a checkpoint names may be imported: importing a module runs its code."""
    module = class_path.rpartition(".")[0]
    return module.partition(".")[0] in (*_TRUSTED, *trust) or module in sys.modules


def _build(spec: dict[str, Any], *, trust: Sequence[str], path: str | Path) -> nn.Module:
    network = _class(spec["class_path"], trust=trust, path=path)(**spec["init_args"])
    assert isinstance(network, nn.Module)
    return network


def _class(class_path: str, *, trust: Sequence[str], path: str | Path) -> Any:
    module, _, name = class_path.rpartition(".")
    if not is_trusted(class_path, trust=trust):
        raise UserError(
            f"{path} wants to build {class_path}, which is not part of litlens, torch or torchvision: "
            f"import {module} first, or name it in trust=, if you trust it"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path} wants to build {class_path}, which cannot be imported here: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"{path} wants to build {class_path}, which is no network")
    return found
