"""The rebuild record: from plain values in a checkpoint to a classifier, tried once before training.

Importing a module and constructing a class run code, so only modules that are trusted are imported, and nothing is
called but classes of `nn.Module` and the functions of torchvision and timm that build networks.
"""

import importlib
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy

from litlens.errors import UserError, nearest
from litlens.models.classifier import ImageClassifier
from litlens.models.constructor_arguments import describe

__all__ = ["check", "describe", "is_trusted", "omitted_arguments", "rebuild"]

_TRUSTED = ("litlens", "torch", "torchvision", "timm")
# A constructor would read or download what an argument with one of these words in its name refers to.
_PLACES = {"weights", "pretrained", "checkpoint", "ckpt", "path", "file", "filename", "folder", "dir", "root", "url"}


def rebuild(record: Mapping[str, Any], network: nn.Module | None = None, trust: Sequence[str] = ()) -> ImageClassifier:
    """Rebuild the classifier of a record, with new weights; `network` replaces the recorded one.

    `trust` names modules, or their packages, that may be imported besides litlens, torch, torchvision, timm and what
    is imported already. Arguments that name weights, files or addresses become None.

    Raises UserError where the record is incomplete, or names a class that is not trusted or not a network.
    """
    if isinstance(network, ImageClassifier):
        return network
    undescribed = {key: why for key, why in record.get("undescribed", {}).items() if key != "network"}
    if undescribed:
        reason = "; ".join(undescribed.values())
        raise UserError(f"the checkpoint does not describe its classifier ({reason}): pass it as network=")
    if network is None and "network" in record.get("undescribed", {}):
        reason = record["undescribed"]["network"]
        raise UserError(f"the checkpoint does not describe its network ({reason}): pass it as network=")
    arguments = {name: value for name, value in record["init_args"].items() if network is None or name != "network"}
    built = _arguments(arguments, trust=trust)
    if network is not None:
        built["network"] = network
    kind = _resolve(record["class_path"], trust=trust)
    if not (isinstance(kind, type) and issubclass(kind, ImageClassifier)):
        raise UserError(f"the checkpoint names {record['class_path']} as its classifier, which is not one of litlens")
    return kind(**built)


def check(classifier: ImageClassifier) -> dict[str, Any]:
    """Describe a classifier and rebuild it once; the record omits a network that is not rebuilt with the same weights.

    The same weights are the same state-dict keys and shapes. The copy has no memory (torch's meta device); where a
    constructor needs values, it is built on the CPU, and all random states are restored.
    """
    record = describe(classifier)
    if "undescribed" in record:
        return record
    wanted = _shapes(classifier)
    reason = ""
    for device in ("meta", "cpu"):
        try:
            with _random_states_restored(), torch.device(device):
                found = _shapes(rebuild(record))
        except Exception as error:  # whatever the constructor of a user's network raises
            reason = f"rebuilding it fails: {type(error).__name__}: {error}".splitlines()[0]
            continue
        differing = [key for key in {**wanted, **found} if not _same_shape(wanted, found, key)]
        if not differing:
            return record
        reason = f"rebuilt, it differs in {differing[0]}"
    arguments = {name: value for name, value in record["init_args"].items() if name != "network"}
    return {**record, "init_args": arguments, "undescribed": {"network": f"model.network: {reason}"}}


def omitted_arguments(record: Mapping[str, Any]) -> list[str]:
    """A line for each argument of a user's network that is None after rebuilding although it may name no file.

    Such a value is a single word, as in `path: residual`; a name in a hub looks the same.
    """
    network = record["init_args"].get("network", {})
    if network.get("class_path", "litlens.").partition(".")[0] in _TRUSTED:
        return []
    return [
        f"model.network.{name}: '{value}' may name weights or a file: it is None where the checkpoint is loaded, "
        "unless with network=; rename the argument if it is neither"
        for name, value in network.get("init_args", {}).items()
        if _is_place(name, value) and re.fullmatch(r"[\w-]+", str(value)) and value is not True
    ]


def is_trusted(class_path: str, *, trust: Sequence[str] = ()) -> bool:
    """Whether a class that a checkpoint names may be imported: importing a module runs its code."""
    module = class_path.rpartition(".")[0]
    parents = {module, *(module[:place] for place, letter in enumerate(module) if letter == ".")}
    return module in sys.modules or bool(parents & {*_TRUSTED, *trust})


def _value(value: Any, *, trust: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and "class_path" in value and set(value) <= {"class_path", "init_args"}:
        found = _resolve(value["class_path"], trust=trust)
        return _construct(found, value["init_args"], trust=trust) if "init_args" in value else found
    if isinstance(value, Mapping):
        return {key: _value(item, trust=trust) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_value(item, trust=trust) for item in value)
    return value


def _construct(what: Any, arguments: Mapping[str, Any], *, trust: Sequence[str]) -> nn.Module:
    built = _arguments(arguments, trust=trust)
    if not isinstance(what, type):  # torchvision warns of `pretrained` even where it is None
        built = {name: value for name, value in built.items() if _PLACES.isdisjoint(name.split("_"))}
        name = str(built.get("model_name"))
        if what.__name__ == "create_model" and not sys.modules["timm"].is_model(name):  # hf-hub:… would be fetched
            raise UserError(f"the checkpoint names {name} as a network of timm, which has none of that name")
    network = what(**built)
    if not isinstance(network, nn.Module):
        raise UserError(f"the checkpoint names {what}, which does not return a network")
    return network


def _arguments(arguments: Mapping[str, Any], *, trust: Sequence[str]) -> dict[str, Any]:
    return {name: None if _is_place(name, value) else _value(value, trust=trust) for name, value in arguments.items()}


def _is_place(name: str, value: Any) -> bool:
    if isinstance(value, str) and "://" in value:
        return True
    if name == "class_weights":  # of the loss
        return False
    return not _PLACES.isdisjoint(name.split("_")) and (isinstance(value, str) or value is True)


def _resolve(class_path: str, *, trust: Sequence[str]) -> Any:
    module, _, name = class_path.rpartition(".")
    if not is_trusted(class_path, trust=trust):
        raise UserError(
            f"the checkpoint names {class_path}, which is not part of litlens, torch, torchvision or timm: "
            f"import {module} first, or name it: trust=['{module}'], on the command line --trust {module}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # a package that the module itself needs
            raise
        raise UserError(
            f"the checkpoint names {class_path}, and there is no module {error.name}: "
            "put its folder on PYTHONPATH, or install its package"
        ) from error
    except AttributeError as error:
        near = nearest(name, (key for key, item in vars(sys.modules[module]).items() if isinstance(item, type)))
        raise UserError(f"the checkpoint names {class_path}, which {module} does not have{near}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)) and not _is_builder(found, module):
        raise UserError(f"the checkpoint names {class_path}, which is not a network: nothing was called")
    return found


def _is_builder(found: Any, module: str) -> bool:
    if module.partition(".")[0] == "torchvision":
        names = torchvision.models.list_models(module=torchvision.models)
        return any(found is torchvision.models.get_model_builder(name) for name in names)
    return module.partition(".")[0] == "timm" and getattr(found, "__name__", "") == "create_model"


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...] | None]:
    """The shape of every entry of the state dict; None where it is not known before the first batch."""
    return {
        key: None if is_lazy(value) else tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for key, value in module.state_dict(keep_vars=True).items()
    }


def _same_shape(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> bool:
    if key not in first or key not in second:
        return False
    return first[key] == second[key] or first[key] is None or second[key] is None


@contextmanager
def _random_states_restored() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
