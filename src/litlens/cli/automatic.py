"""What `auto` means in a config: the command puts values in its place that follow from the images and the weights."""

import math

from jsonargparse import Namespace

from litlens.data.datasets.folder import FolderDataModule
from litlens.data.module import ImageDataModule
from litlens.errors import UserError
from litlens.models.pretrained import TIMM, channels_of, weights_normalization


def resolve_auto(config: Namespace, data: ImageDataModule) -> str:
    """Replace each `auto` by its value, in the configuration and the data module.

    Returns what follows from the number of images, in one line; empty if nothing does. Both keep the values: the
    config.yaml of a run has no `auto`, and a fold or a resumed run has the values of the first.
    """
    _use_constants_of_weights(config, data)
    options, trainer = config.data.init_args, config.trainer
    if "auto" not in (options.get("image_size"), options.get("batch_size"), trainer.max_epochs):
        return ""
    if not isinstance(data, FolderDataModule):
        raise UserError("trainer.max_epochs: auto follows from the number of images in a folder: give a number")
    images = data.number_of_files
    size, batch_size, epochs = recipe(images, pretrained=_is_pretrained(config))
    chosen = []
    if options.image_size == "auto":
        data.image_size, options.image_size = (size, size), [size, size]
        chosen.append(f"data.image_size {size}")
    if options.batch_size == "auto":
        data.batch_size = options.batch_size = batch_size
        chosen.append(f"data.batch_size {batch_size}")
    if trainer.max_epochs == "auto":
        trainer.max_epochs = epochs
        chosen.append(f"trainer.max_epochs {epochs}")
    return f"auto, for {images:,} images: {', '.join(chosen)}"


def recipe(images: int, *, pretrained: bool) -> tuple[int, int, int]:
    """The side of the images, the batch size and the epochs for a number of images.

    Epochs fall with the square root of the number, so that the time grows with it. Random weights need more epochs;
    smaller images make up for their time.
    """
    side = 224 if images <= 2500 else 160 if images <= 25_000 else 128
    side = side if pretrained else 96
    batch_size = min(max(2 ** round(math.log2(images / 50)), 4), 64)
    epochs = min(max(round((30 if pretrained else 48) * math.sqrt(2000 / images)), 10), 100)
    return side, batch_size, epochs


def _is_pretrained(config: Namespace) -> bool:
    options = config.model.init_args.network.get("init_args", {})
    # jsonargparse 4.53 turns a null that is two classes deep on the command line into the string "None".
    return options.get("weights") not in (None, "None") or bool(options.get("pretrained"))


def _use_constants_of_weights(config: Namespace, data: ImageDataModule) -> None:
    """Replace `data.normalize: auto` by the constants of pretrained weights, in the data module and its configuration.

    They follow from the options of a TransferNetwork or of timm.create_model, so that `--inspect` need not build it.
    """
    network = config.model.init_args.network
    options, found = network.init_args, None
    if data.normalize != "auto":
        return
    if network.class_path.endswith(".TransferNetwork"):
        found = weights_normalization(options.backbone, options.weights, options.normalization)
    elif network.class_path == "timm.create_model" and options.pretrained:
        found = weights_normalization(TIMM + options.model_name, "DEFAULT")
    if found:
        data.normalize = config.data.init_args.normalize = channels_of(found, data.in_channels)
