"""Augmentation of training images, by albumentations: the only module that imports it.

The names of `Augmentation` need no knowledge of albumentations; any of its transforms works by its class name.
"""

import itertools
import math
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from litlens.data.preprocessing import Pixels, Resize
from litlens.errors import UserError, nearest

# On import, albumentations asks a server for its newest version: two seconds where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations

_BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "border": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "wrap": cv2.BORDER_WRAP,
}
# The options of each name, with defaults. The first is the one that `name: value` sets. What has a fill is warped.
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
_LARGEST = {"rotation.limit": 180.0, "shift.limit": 1.0, "shear.limit": 80.0, "crop.range": 1.0}
# albumentations' own transforms that crop to a size, which is the network's where none is given.
_CROPS = {
    "RandomResizedCrop": ("size",),
    "RandomSizedCrop": ("size",),
    "RandomCrop": ("height", "width"),
    "CenterCrop": ("height", "width"),
}


class Augmentation:
    """A chain of augmentations whose result depends only on the image and a random generator.

    `steps` is a list as in YAML: `rotation`, `rotation: 10` or `shift: {limit: 0.2, fill: border}`.
    Names:

    * `rotation`: by up to `limit` degrees (10) to either side
    * `shift`: by up to `limit` (0.1) of width and height
    * `scale`: enlarged by a factor in `range` (1.0 to 1.6)
    * `zoom`: made smaller or larger, by a factor in `range` (0.8 to 1.2)
    * `shear`: by up to `limit` degrees (20), along either axis
    * `stretch`: by a factor in `range` (1.0 to 1.3), along one axis
    * `horizontal_flip`, `vertical_flip`: with probability `p` (0.5)
    * `horizontal_flip: {alternate: true}`: in every second epoch; the seed decides in which one an image begins
      (the alternating flip of K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024)
    * `crop`: a part of the original, an area in `range` (0.5 to 1.0) of it and of an aspect ratio in `ratio`
      (0.75 to 1.333), resized to the network's size; where it is not drawn, the image is resized as in evaluation

    Each takes `p`, the probability that it is applied (1, flips 0.5). Pixels from outside the image follow from
    `fill`: `constant` (black), a gray value from 0 to 255, `border` (the nearest pixel), `reflect` or `wrap`.
    Neighbors of one fill are done as one warp, so that pixels are interpolated once.

    Args:
        steps: Names, or one name with its options each; or classes of albumentations with their arguments. Its
            containers (`OneOf`, `SomeOf`, `Sequential`, …) take steps of either kind as `transforms`.
        resize: Gives the size of the result, and replaces a crop that is not drawn.

    Raises:
        UserError: No such name or option.
    """

    def __init__(self, steps: list[str | dict[str, Any]], resize: Resize) -> None:
        self._size = resize.size
        chosen = [_read(step) for step in steps]
        self._foreign = [step.name for step in chosen if step.name not in _OPTIONS]
        # Whether it takes the original image and resizes it itself.
        self.crops = any(step.crops for step in chosen)
        self._chain = albumentations.Compose(_transforms(chosen, resize))
        self._alternating = [flip for flip in self._chain.transforms if isinstance(flip, _AlternatingFlip)]
        # Whether images are flipped in every second epoch.
        self.alternates = bool(self._alternating)
        self._random = random.Random()

    def __call__(self, image: Pixels, rng: np.random.Generator, *, flipped: bool = False) -> Pixels:
        """Augment one image, uint8 (h, w, C), to uint8 (H, W, C); `flipped` decides an alternating flip.

        Raises:
            UserError: A class of albumentations fails on the image, or changes its size.
        """
        for flip in self._alternating:
            flip.p = float(flipped)
        # albumentations draws from both kinds of generator. Seeding ours again costs a fraction of what its
        # own set_random_seed does, which makes two new ones for each transform.
        self._random.seed(int(rng.integers(2**63)))
        self._chain.set_random_state(rng, self._random)
        try:
            augmented: Pixels = self._chain(image=np.ascontiguousarray(image))["image"]
        # albumentations has no error type of its own for an unsuitable image; each transform raises another.
        except Exception as error:
            if not self._foreign or isinstance(error, MemoryError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data.augment: {' or '.join(self._foreign)} does not take an image {image.shape[0]} pixels high and "
                f"{image.shape[1]} wide ({reason}): change its options or remove it; crop takes any size"
            ) from error
        if augmented.ndim == 2:
            augmented = augmented[..., None]
        expected = (*self._size, image.shape[2])
        if augmented.shape != expected or augmented.dtype != np.uint8:
            raise UserError(
                f"data.augment: images become {augmented.dtype} {augmented.shape}, not uint8 {expected}: "
                "use crop or a transform that keeps the size"
            )
        return augmented


@dataclass(frozen=True)
class _Step:
    """One entry of the list; `inner` holds the entries of a container of albumentations."""

    name: str
    options: dict[str, Any]
    inner: list["_Step"] = field(default_factory=list)

    @property
    def fill(self) -> Any:
        """What a warp fills with; None of anything else."""
        return self.options.get("fill") if self.name in _OPTIONS else None

    @property
    def crops(self) -> bool:
        return self.name == "crop" or self.name in _CROPS or any(step.crops for step in self.inner)


def _read(entry: str | dict[str, Any], *, inside: str = "") -> _Step:
    """Read one entry of the list, and check its options where the name is one of ours."""
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UserError(f"data.augment: an entry is a name, or one name with its options, not {entry!r}")
    ((name, given),) = entry.items()
    given = {} if given is None else given
    if name in _OPTIONS:
        defaults = _OPTIONS[name]
        if not isinstance(given, dict):
            given = {next(iter(defaults)): given}
        if unknown := sorted(set(given) - set(defaults)):
            raise UserError(f"data.augment: {name} has no option {unknown[0]!r}; give {', '.join(defaults)}")
        if given.get("alternate") and (inside or "p" in given):
            remedy = f"move it out of {inside}" if inside else "remove p"
            raise UserError(f"data.augment: {name}.alternate: it flips in every second epoch: {remedy}")
        return _Step(name, {key: _checked(f"{name}.{key}", given.get(key, defaults[key])) for key in defaults})
    if not isinstance(given, dict):
        raise UserError(f"data.augment: {name} takes named options, as in {name}: {{p: 0.5}}, not {given!r}")
    inner = given.get("transforms", [])
    if not isinstance(inner, list):
        raise UserError(f"data.augment: {name}.transforms: {inner!r} is not a list of augmentations")
    options = {key: value for key, value in given.items() if key != "transforms"}
    return _Step(name, options, [_read(one, inside=name) for one in inner])


def _checked(key: str, value: Any) -> Any:
    """Check that the value of `name.option` is of the same kind as the default, and return it; a range as a pair."""
    name, _, option = key.partition(".")
    default, largest = _OPTIONS[name][option], _LARGEST.get(key, 1.0 if option == "p" else math.inf)
    if isinstance(default, bool):
        wanted = "true or false"
        if isinstance(value, bool):
            return value
    elif isinstance(default, str):
        wanted = f"{', '.join(_BORDERS)} or a gray value from 0 to 255"
        if value in list(_BORDERS) or _is_number(value, largest=255):
            return value
    elif isinstance(default, tuple):
        wanted = f"a range [low, high] with 0 < low <= high{' <= 1' * (largest == 1)}"
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) == 2 and all(_is_number(v, largest=largest) for v in pair) and 0 < pair[0] <= pair[1]:
            return float(pair[0]), float(pair[1])
    else:
        wanted = f"a number from 0 to {largest:g}"
        if _is_number(value, largest=largest):
            return float(value)
    raise UserError(f"data.augment: {key}: {value!r} is not {wanted}")


def _is_number(value: Any, *, largest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= largest


def _transforms(steps: Sequence[_Step], resize: Resize, *, joined: bool = True) -> list[Any]:
    """The transforms of albumentations for the steps, neighbors of one fill joined to one warp."""
    transforms: list[Any] = []
    for fill, group in itertools.groupby(steps, key=lambda step: step.fill):
        chosen = list(group)
        if fill is None:
            transforms += [_transform(step, resize) for step in chosen]
        elif joined:
            transforms.append(_Warp(chosen))
        else:  # a container such as OneOf reads the p of each transform
            transforms += [_Warp([step], p=step.options["p"]) for step in chosen]
    return transforms


def _transform(step: _Step, resize: Resize) -> Any:
    """The transform of albumentations for anything but a warp."""
    if step.name == "crop":
        crop = albumentations.RandomResizedCrop(
            size=resize.size,
            scale=step.options["range"],
            ratio=step.options["ratio"],
            p=step.options["p"],
            # Shrinking without it would alias, and training would see other images than evaluation.
            area_for_downscale="image",
        )
        return _or_resize(crop, resize)
    if step.name == "horizontal_flip" and step.options["alternate"]:
        return _AlternatingFlip()
    if step.name in _OPTIONS:
        flips = {"horizontal_flip": albumentations.HorizontalFlip, "vertical_flip": albumentations.VerticalFlip}
        return flips[step.name](p=step.options["p"])
    kind = getattr(albumentations, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, (albumentations.BasicTransform, albumentations.BaseCompose))):
        classes = [name for name in dir(albumentations) if isinstance(getattr(albumentations, name), type)]
        known = nearest(step.name, [*_OPTIONS, *classes])
        raise UserError(f"data.augment: there is no augmentation {step.name!r}{known}")
    sizes = {"size": resize.size, "height": resize.size[0], "width": resize.size[1]}
    options = {key: sizes[key] for key in _CROPS.get(step.name, ())}
    options |= {key: tuple(value) if isinstance(value, list) else value for key, value in step.options.items()}
    if step.inner:
        # Each by itself: OneOf chooses one of them.
        options["transforms"] = _transforms(step.inner, resize, joined=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # albumentations only warns of an unknown argument
            made = kind(**options)
    # pydantic's ValidationError is a ValueError; the checks of albumentations raise others.
    except (ValueError, TypeError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.augment: {step.name} does not take {step.options}: {reason}") from error
    return _or_resize(made, resize) if step.name in _CROPS else made


def _or_resize(crop: Any, resize: Resize) -> Any:
    """Resize where the crop is not drawn: otherwise the image would keep its own size."""
    # OneOf takes the p of the two as weights.
    return crop if crop.p >= 1 else albumentations.OneOf([crop, _Resized(resize, p=1 - crop.p)], p=1.0)


class _AlternatingFlip(albumentations.HorizontalFlip):  # type: ignore[misc]
    """Flips where `Augmentation` sets its p to 1."""


class _Resized(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    def __init__(self, resize: Resize, *, p: float) -> None:
        super().__init__(p=p)
        self.resize = resize

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        return self.resize(img)


class _Warp(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Warps once for all its steps, each with its own p; with `p`, its one step is applied whenever the warp is."""

    def __init__(self, steps: list[_Step], *, p: float | None = None) -> None:
        super().__init__(p=1.0 if p is None else p)
        self.steps = [(step, step.options["p"] if p is None else 1.0) for step in steps]
        fill = steps[0].fill
        self.border = _BORDERS.get(fill, cv2.BORDER_CONSTANT)
        self.value = [0.0 if fill in _BORDERS else float(fill)] * 4

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = data["image"].shape[:2]
        return {"matrix": _warp_matrix(self.steps, self.random_generator, height=height, width=width)}

    def apply(self, img: Pixels, matrix: NDArray[np.float64], **params: Any) -> Pixels:
        moved: Any = cv2.warpAffine(
            img, matrix, img.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=self.border, borderValue=self.value
        )
        return moved.reshape(img.shape)  # type: ignore[no-any-return]


# The first two rows of the matrix that maps a point (x, y, 1), relative to the image's center, to its new
# position. In plain numbers: numpy's overhead on 3×3 matrices would cost more than the warp of a small image.
_Matrix = tuple[float, float, float, float, float, float]


def _warp_matrix(
    steps: Sequence[tuple[_Step, float]], rng: np.random.Generator, *, height: int, width: int
) -> NDArray[np.float64]:
    """Draw each step with its p and multiply their matrices, the first applied first: (2, 3) in pixels, for OpenCV."""
    a, b, x, c, d, y = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    for step, p in steps:
        if p >= 1 or rng.random() < p:
            e, f, u, g, h, v = _drawn(step, rng, height=height, width=width)
            a, b, c, d = e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d
            x, y = e * x + f * y + u, g * x + h * y + v
    right, down = (width - 1) / 2, (height - 1) / 2
    return np.array([[a, b, x + right - a * right - b * down], [c, d, y + down - c * right - d * down]])


def _drawn(step: _Step, rng: np.random.Generator, *, height: int, width: int) -> _Matrix:
    if step.name == "shift":
        limit = step.options["limit"]
        return 1.0, 0.0, rng.uniform(-limit, limit) * width, 0.0, 1.0, rng.uniform(-limit, limit) * height
    if step.name in ("rotation", "shear"):
        angle = math.radians(rng.uniform(-step.options["limit"], step.options["limit"]))
        if step.name == "rotation":
            return math.cos(angle), math.sin(angle), 0.0, -math.sin(angle), math.cos(angle), 0.0
        along_x, along_y = (math.tan(angle), 0.0) if rng.random() < 0.5 else (0.0, math.tan(angle))
        return 1.0, along_x, 0.0, along_y, 1.0, 0.0
    along_x = along_y = rng.uniform(*step.options["range"])
    if step.name == "stretch":
        along_x, along_y = (along_x, 1.0) if rng.random() < 0.5 else (1.0, along_y)
    return along_x, 0.0, 0.0, 0.0, along_y, 0.0
