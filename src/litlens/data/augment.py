"""Augmentation of training images, by albumentations: the only module that knows it.

The names below need no knowledge of albumentations; any of its transforms serves by its class name.
"""

import itertools
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litlens.data.movements import MOVEMENTS, moving_matrix
from litlens.data.preprocessing import Pixels, Resize, ResizeMode
from litlens.errors import UserError, nearest


class Augmentation:
    """A chain of augmentations that depends on the image and on a random generator alone.

    `steps` is a list as in YAML: `rotation`, `rotation: 10` or `shift: {limit: 0.2, fill: border}`.
    Names:

    * `rotation`: by up to `limit` degrees (10) to either side
    * `shift`: by up to `limit` (0.1) of width and height
    * `scale`: enlarged by a factor in `range` (1.0 to 1.6)
    * `zoom`: made smaller or larger, by a factor in `range` (0.8 to 1.2)
    * `shear`: by up to `limit` degrees (20), along either axis
    * `stretch`: by a factor in `range` (1.0 to 1.3), along one axis
    * `horizontal_flip`, `vertical_flip`: with probability `p` (0.5)
    * `horizontal_flip: {alternate: true}`: in every second epoch; which one an image begins with follows from the seed
      (the alternating flip of K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024)
    * `crop`: a part of the original, an area in `range` (0.5 to 1.0) of it and of an aspect ratio in `ratio`
      (0.75 to 1.333), brought to `image_size`; where it is not drawn, the image resized as `resize_mode` says

    Each takes `p`, the probability that it is done at all (1, flips 0.5). What comes into view from outside
    follows from `fill`: `constant` (black), a gray value from 0 to 255, `border` (the nearest pixel), `reflect` or
    `wrap`. Neighbors of one fill are done as one warp, so that pixels are interpolated once.

    Args:
        steps: Names, or one name with its options each; or classes of albumentations with their arguments. Its
            containers (`OneOf`, `SomeOf`, `Sequential`, …) take steps of either kind as `transforms`.
        image_size: Height and width that images must have in the end.
        resize_mode: What becomes of another aspect ratio where a crop is not drawn (`Resize.mode`).

    Raises:
        UserError: No such name or option.
    """

    def __init__(
        self, steps: list[str | dict[str, Any]], *, image_size: tuple[int, int], resize_mode: ResizeMode = "crop"
    ) -> None:
        self.steps = [_step(step) for step in steps]
        self.image_size = image_size
        self.resize_mode: ResizeMode = resize_mode
        self._chains: dict[bool, Any] = {}
        self._random = random.Random()
        # A foreign name may be wrong: better reported now than in a worker.
        if any(step.name not in _OPTIONS for step in self.steps):
            self._chain(flipped=False)

    @property
    def crops(self) -> bool:
        """Whether it takes the image before the resize and brings it to the network's size itself."""
        return any(step.name == "crop" or step.name in _CROPS for step in _all_steps(self.steps))

    @property
    def alternates(self) -> bool:
        """Whether images are flipped in every second epoch."""
        return any(step.options.get("alternate") is True for step in self.steps)

    def __call__(self, image: Pixels, rng: np.random.Generator, *, flipped: bool = False) -> Pixels:
        """Augment one image, uint8 (h, w, C), to uint8 (H, W, C); `flipped` says what an alternating flip does.

        Raises:
            UserError: A class of albumentations does not take the image, or leaves it at another size.
        """
        chain = self._chain(flipped=flipped)
        # albumentations draws from both kinds of generator. Seeding ours again costs a fraction of what its
        # own set_random_seed does, which makes two new ones for each transform.
        self._random.seed(int(rng.integers(2**63)))
        chain.set_random_state(rng, self._random)
        try:
            augmented: Pixels = chain(image=np.ascontiguousarray(image))["image"]
        # albumentations has no error type of its own for an image that does not suit; each transform raises another.
        except Exception as error:
            foreign = [step.name for step in self.steps if step.name not in _OPTIONS]
            if not foreign or isinstance(error, MemoryError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data.augment: {' or '.join(foreign)} does not take an image {image.shape[0]} pixels high and "
                f"{image.shape[1]} wide ({reason}): change its options or leave it out; crop takes any size"
            ) from error
        if augmented.ndim == 2:
            augmented = augmented[..., None]
        expected = (*self.image_size, image.shape[2])
        if augmented.shape != expected or augmented.dtype != np.uint8:
            raise UserError(
                f"data.augment: images become {augmented.dtype} {augmented.shape}, not uint8 {expected}: "
                "use crop, or a transform that keeps the size"
            )
        return augmented

    def _chain(self, *, flipped: bool) -> Any:
        if flipped not in self._chains:
            transforms = _transforms(
                self.steps, image_size=self.image_size, resize_mode=self.resize_mode, flipped=flipped
            )
            self._chains[flipped] = _albumentations().Compose(transforms)
        return self._chains[flipped]

    def __getstate__(self) -> dict[str, Any]:
        # albumentations' objects of our own class cannot be pickled; a worker makes them again.
        return {**self.__dict__, "_chains": {}}


@dataclass(frozen=True)
class _Step:
    name: str
    options: dict[str, Any]
    inner: list["_Step"] = field(default_factory=list)  # of a container of albumentations


def _all_steps(steps: list[_Step]) -> Iterator[_Step]:
    for step in steps:
        yield step
        yield from _all_steps(step.inner)


_FILLS = ("constant", "border", "reflect", "wrap")
_FLIPS = ("horizontal_flip", "vertical_flip")
# albumentations' own transforms that crop to a size, which is ours where none is given.
_CROPS = {
    "RandomResizedCrop": ("size",),
    "RandomSizedCrop": ("size",),
    "RandomCrop": ("height", "width"),
    "CenterCrop": ("height", "width"),
}
# The options of each name, with defaults. The first is the one that `name: value` sets.
_OPTIONS: dict[str, dict[str, Any]] = {
    "rotation": {"limit": 10.0, "fill": "constant", "p": 1.0},
    "shift": {"limit": 0.1, "fill": "constant", "p": 1.0},
    "scale": {"range": (1.0, 1.6), "fill": "constant", "p": 1.0},
    "zoom": {"range": (0.8, 1.2), "fill": "constant", "p": 1.0},
    "shear": {"limit": 20.0, "fill": "constant", "p": 1.0},
    "stretch": {"range": (1.0, 1.3), "fill": "constant", "p": 1.0},
    "horizontal_flip": {"p": 0.5, "alternate": False},
    "vertical_flip": {"p": 0.5},
    "crop": {"range": (0.5, 1.0), "ratio": (3 / 4, 4 / 3), "p": 1.0},
}


def _step(step: str | dict[str, Any], *, inside: str | None = None) -> _Step:
    """Read one entry of the list, and check the options of the names that are ours."""
    if isinstance(step, str):
        name, given = step, None
    elif isinstance(step, dict) and len(step) == 1:
        ((name, given),) = step.items()
    else:
        raise UserError(f"data.augment: an entry is a name, or one name with its options, not {step!r}")
    if name not in _OPTIONS:
        if given is not None and not isinstance(given, dict):
            raise UserError(f"data.augment: {name} takes named options, as in {name}: {{p: 0.5}}, not {given!r}")
        options = dict(given or {})
        inner = options.pop("transforms", [])
        if not isinstance(inner, list):
            raise UserError(f"data.augment: {name}.transforms: {inner!r} is not a list of augmentations")
        return _Step(name, options, [_step(one, inside=name) for one in inner])
    defaults = _OPTIONS[name]
    if given is None:
        given = {}
    elif not isinstance(given, dict):
        given = {next(iter(defaults)): given}
    if unknown := sorted(set(given) - set(defaults)):
        raise UserError(f"data.augment: {name} has no option {unknown[0]!r}; it has {', '.join(defaults)}")
    if given.get("alternate") and (inside is not None or "p" in given):
        other = f"inside {inside}" if inside else "with p"
        raise UserError(f"data.augment: {name}.alternate: it does not go {other}: it flips every second epoch")
    return _Step(name, {key: _checked(name, key, given.get(key, default)) for key, default in defaults.items()})


def _checked(name: str, key: str, value: Any) -> Any:
    """The value of an option, ranges as pairs; a line says what it must be."""
    where = f"data.augment: {name}.{key}"
    if key in ("range", "ratio"):
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        most = 1.0 if name == "crop" and key == "range" else float("inf")
        if len(pair) != 2 or not all(_is_number(v) for v in pair) or not 0 < pair[0] <= pair[1] <= most:
            raise UserError(
                f"{where}: {value!r} is not a range [low, high] with 0 < low <= high{' <= 1' * (most == 1)}"
            )
        return float(pair[0]), float(pair[1])
    if key == "alternate":
        if not isinstance(value, bool):
            raise UserError(f"{where}: {value!r} is neither true nor false")
        return value
    if key == "fill":
        if value not in _FILLS and not (_is_number(value) and 0 <= value <= 255):
            raise UserError(f"{where}: {value!r} is none of {', '.join(_FILLS)}, nor a gray value from 0 to 255")
        return value
    most = {"p": 1.0, "rotation": 180.0, "shear": 80.0, "shift": 1.0}["p" if key == "p" else name]
    if not _is_number(value) or not 0 <= value <= most:
        raise UserError(f"{where}: {value!r} is not a number from 0 to {most:g}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _transforms(
    steps: list[_Step], *, image_size: tuple[int, int], resize_mode: ResizeMode, flipped: bool, join: bool = True
) -> list[Any]:
    """The transforms of albumentations for the steps, with neighbors of one fill joined to one warp."""
    albumentations = _albumentations()
    sizes: dict[str, Any] = {"image_size": image_size, "resize_mode": resize_mode}
    transforms: list[Any] = []
    by_fill = itertools.groupby(steps, key=lambda step: (step.name in MOVEMENTS, step.options.get("fill")))
    for (moves, _), group in by_fill:
        chosen = list(group)
        if moves:
            transforms += [_warp(chosen)] if join else [_warp([step], separate=True) for step in chosen]
            continue
        for step in chosen:
            if step.name == "crop":
                crop = albumentations.RandomResizedCrop(
                    size=image_size,
                    scale=step.options["range"],
                    ratio=step.options["ratio"],
                    p=step.options["p"],
                    # Shrinking without it would alias, and training would see other images than evaluation.
                    area_for_downscale="image",
                )
                transforms.append(_or_whole(crop, **sizes))
            elif step.name in _FLIPS:
                flip = albumentations.HorizontalFlip if step.name == "horizontal_flip" else albumentations.VerticalFlip
                alternates = step.options.get("alternate") is True
                transforms.append(flip(p=float(flipped) if alternates else step.options["p"]))
            else:
                foreign = _foreign(step, **sizes)
                transforms.append(_or_whole(foreign, **sizes) if step.name in _CROPS else foreign)
    return transforms


def _foreign(step: _Step, *, image_size: tuple[int, int], resize_mode: ResizeMode) -> Any:
    """One of albumentations' own transforms or containers, by its class name."""
    albumentations = _albumentations()
    kind = getattr(albumentations, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, (albumentations.BasicTransform, albumentations.BaseCompose))):
        classes = [name for name in dir(albumentations) if isinstance(getattr(albumentations, name), type)]
        known = nearest(step.name, [*_OPTIONS, *classes])
        raise UserError(f"data.augment: no augmentation is called {step.name!r}{known}")
    options = dict(step.options)
    if step.inner:
        # Of a container's transforms each stands alone: OneOf chooses one of them.
        options["transforms"] = _transforms(
            step.inner, image_size=image_size, resize_mode=resize_mode, flipped=False, join=False
        )
    defaults = {"size": image_size, "height": image_size[0], "width": image_size[1]}
    for key in _CROPS.get(step.name, ()):
        options.setdefault(key, defaults[key])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an argument that it does not know is but a warning there
            return kind(
                **{key: tuple(v) if isinstance(v, list) and key != "transforms" else v for key, v in options.items()}
            )
    # pydantic's ValidationError is a ValueError; its own checks raise others.
    except (ValueError, TypeError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.augment: {step.name} does not take {step.options}: {reason}") from error


def _or_whole(crop: Any, *, image_size: tuple[int, int], resize_mode: ResizeMode) -> Any:
    """A crop, or the resize where the crop is not drawn: otherwise the image would keep its own size."""
    if crop.p >= 1:
        return crop
    albumentations = _albumentations()

    class Whole(albumentations.ImageOnlyTransform):  # type: ignore[misc, name-defined, unused-ignore]
        def apply(self, img: Pixels, **params: Any) -> Pixels:
            return Resize(image_size, resize_mode)(img)

    # One of the two, with their p as weights.
    return albumentations.OneOf([crop, Whole(p=1 - crop.p)], p=1.0)


def _warp(steps: list[_Step], *, separate: bool = False) -> Any:
    """A transform of our own, as albumentations' guide says: it moves pixels once for all its steps.

    Its `p` is 1, as each step has its own; where it is `separate`, that of its one step, which containers read.
    """
    import cv2

    albumentations = _albumentations()
    fill, p = steps[0].options["fill"], steps[0].options["p"] if separate else 1.0
    movements = [(step.name, {**step.options, "p": 1.0} if separate else step.options) for step in steps]
    border = {
        "border": cv2.BORDER_REPLICATE,
        "reflect": cv2.BORDER_REFLECT_101,
        "wrap": cv2.BORDER_WRAP,
    }.get(fill, cv2.BORDER_CONSTANT)
    value = [float(fill)] * 4 if _is_number(fill) else [0.0] * 4

    class Warp(albumentations.ImageOnlyTransform):  # type: ignore[misc, name-defined, unused-ignore]
        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            height, width = data["image"].shape[:2]
            return {
                "matrix": moving_matrix(
                    movements,
                    self.random_generator,
                    height=height,
                    width=width,
                )
            }

        def apply(self, img: Pixels, matrix: NDArray[np.float64], **params: Any) -> Pixels:
            size = (img.shape[1], img.shape[0])
            moved: Any = cv2.warpAffine(img, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value)
            return moved.reshape(img.shape)  # type: ignore[no-any-return]

    return Warp(p=p)


def _albumentations() -> Any:
    # On import it asks a server for its newest version, two seconds where there is no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
