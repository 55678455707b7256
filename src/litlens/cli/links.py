"""The values of the model that follow from the data: which they are, who gets them, and how the model is built.

jsonargparse links keys to the classifier. Its links into the network require the key in every class and refuse
functions, so a network is linked to the names that its constructor takes, and to no other.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonargparse._typehints
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from litlens.cli.mistakes import config_files, inline_configs
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, nearest
from litlens.models.recording import keep_arguments

_NETWORK = "model.init_args.network"
_CLASS_NAMES = "model.init_args.class_names"
_LINKED = ("num_classes", "in_channels", "image_size")
# timm's builder takes what the class of the model takes, under names of its own.
_TIMM = {"num_classes": "num_classes", "in_chans": "in_channels"}


class LinkedModel:
    """The links of one command line: made before it is parsed, since the names follow from the network's class."""

    def __init__(self, args: list[str]) -> None:
        self.args = args
        for key in ("model", "model.class_path"):
            for _, name in _given(key, args=args):
                if isinstance(name, str) and "." in name.strip("."):
                    _imported(name, key="model")
        self.builder = _builder(args)
        self._parameters = _parameters(self.builder) if self.builder is not None else {}

    def add_to(self, parser: ArgumentParser) -> None:
        """Tell the parser which keys the data will set, so that it does not require them."""
        parser.link_arguments("data.class_names", _CLASS_NAMES, apply_on="instantiate")
        if isinstance(self.builder, type):  # jsonargparse cannot link to the parameters of a function
            for name in self._names():
                parser.link_arguments(f"data.{name}", f"{_NETWORK}.init_args.{name}", apply_on="instantiate")

    def values(self, data: ImageDataModule) -> dict[str, Any]:
        """The linked keys of the model with their values from the data, as plain values."""
        found: dict[str, Any] = {_CLASS_NAMES: list(data.class_names)}
        for name in self._names():
            found[f"{_NETWORK}.init_args.{name}"] = self._value(name, data)
        return found

    def set_in(self, config: Namespace, data: ImageDataModule) -> None:
        """Set the linked keys in a parsed configuration. Raises UserError where the user gives another value.

        The same value is welcome: a run's own config.yaml holds it.
        """
        for target, value in self.values(data).items():
            for where, given in _given(target, args=self.args):
                if _plain(given) != value:
                    key = target.replace(".init_args", "")
                    raise UserError(
                        f"{where}: {key}: set by the data module ({value}): remove {key.rpartition('.')[2]}: {given}"
                    )
            config[target] = value

    def _names(self) -> list[str]:
        if getattr(self.builder, "__module__", "").partition(".")[0] == "timm":
            return [name for name in _TIMM if self.builder is not None]
        return [name for name in _LINKED if name in self._parameters]

    def _value(self, name: str, data: ImageDataModule) -> Any:
        value = _plain(getattr(data, _TIMM.get(name, name)))
        if name != "image_size" or self._parameters[name].annotation is not int:
            return value
        height, width = value  # torchvision's transformers take one side
        if height != width:
            raise UserError(f"data.image_size: {value}: {self.builder.__name__} takes square images only")  # type: ignore[union-attr]
        return height


class ModelBuilder:
    """Constructs every `nn.Module` of a configuration and keeps the arguments, so that a checkpoint describes it.

    jsonargparse takes errors of a constructor for mistakes in the configuration and shortens them. `failure` is the
    error of a class outside of litlens, torch and torchvision, as it was raised.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    @contextmanager
    def full_traceback(self) -> Iterator[None]:
        """Raise `failure`, where there is one, in place of what jsonargparse makes of it."""
        try:
            yield
        except Exception:
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure from None
            raise

    def __call__(self, kind: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        """Construct a module; jsonargparse calls this."""
        try:
            module = kind(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            if kind.__module__.partition(".")[0] not in ("litlens", "torch", "torchvision") and self.failure is None:
                self.failure = error
            raise
        if not args:
            keep_arguments(module, kwargs)
        return module


def keep_builder(classifier: nn.Module, config: Namespace) -> None:
    """Keep how a network was made that a function has made: jsonargparse asks no instantiator for those."""
    spec = config.model.init_args.get("network")
    if isinstance(spec, Namespace) and not isinstance(_imported(spec.class_path), type):
        keep_arguments(classifier.network, spec.init_args.as_dict(), builder=spec.class_path)  # type: ignore[arg-type]


def prefer_own_classes() -> None:
    """Let the short name of a class of litlens mean that class: `MLP` is one of torchvision's as well.

    jsonargparse 4.53 refuses a short name that two imported classes share and has no setting for it.
    """
    original = jsonargparse._typehints.resolve_class_path_by_name
    if getattr(original, "prefers_own", False):
        return

    def resolve(cls: Any, name: str) -> str:
        try:
            return original(cls, name)
        except ValueError as error:
            own = re.findall(r"litlens\.[\w.]*\w", str(error).rpartition("ambiguity:")[2])
            if len(own) != 1:
                raise
            return str(own[0])

    resolve.prefers_own = True  # type: ignore[attr-defined]
    jsonargparse._typehints.resolve_class_path_by_name = resolve


def _builder(args: list[str]) -> Callable[..., Any] | None:
    """The class or function that the command line names as the network, the last one; None where there is none."""
    named = [value for _, value in _given(f"{_NETWORK}.class_path", args=args)]
    named += [value for _, value in _given(_NETWORK, args=args)]
    for name in reversed([name for name in named if isinstance(name, str)]):
        found = _imported(name) if "." in name.strip(".") else _by_short_name(name)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None


def _by_short_name(name: str) -> Any:
    try:
        path = jsonargparse._typehints.resolve_class_path_by_name(nn.Module, name)
        return _imported(path) if "." in path else None
    except ValueError:  # ambiguous: the parser says so
        return None


def _imported(path: str, *, key: str = "model.network") -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not module or not f"{module}.".startswith(f"{error.name}."):  # a package that the user's module needs
            raise
        raise UserError(
            f"{key}: {path}: there is no module {error.name}: check its spelling, and that its folder is on PYTHONPATH"
        ) from error
    except AttributeError as error:
        names = [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
        raise UserError(f"{key}: {module} has no {name}{nearest(name, names)}") from error


def _parameters(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class or function by name, and where it hands on **kwargs, those of whom it hands them to."""
    signature = inspect.signature(vars(_owner(builder))["__init__"] if isinstance(builder, type) else builder)
    found = dict(signature.parameters)
    kinds = {parameter.kind for parameter in found.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return found
    made = signature.return_annotation
    if isinstance(builder, type):
        rest = builder.__mro__[builder.__mro__.index(_owner(builder)) + 1 :]
        next_one = next((base for base in rest if "__init__" in vars(base)), None)
    else:
        next_one = made if isinstance(made, type) else None
    if next_one in (None, object, nn.Module):
        return found
    return {**_parameters(next_one), **found}


def _owner(kind: type) -> type:
    return next(base for base in kind.__mro__ if "__init__" in vars(base))


def _given(target: str, *, args: list[str]) -> list[tuple[str, Any]]:
    configs: list[tuple[str, Any]] = [
        (str(file), _loaded(file.read_text(errors="replace"))) for file in config_files(args) if file.is_file()
    ]
    configs += [("command line", config) for config in inline_configs(args)]
    found = []
    for where, value in configs:
        for key in target.split("."):
            if not isinstance(value, dict):  # a class by its name alone, without options
                value = None
            # `init_args` may be left out, as jsonargparse allows.
            elif key in value or key != "init_args":
                value = value.get(key)
        if value is not None and not isinstance(value, dict):
            found.append((where, value))
    option = re.compile("--" + re.escape(target).replace(r"\.init_args", r"(?:\.init_args)?") + "(?:=(.*))?")
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        if match := option.fullmatch(arg):
            found.append(("command line", _loaded(match[1] if match[1] is not None else after)))
    return found


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # the parser says where
        return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
