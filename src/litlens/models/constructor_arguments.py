"""The constructor's arguments of a module, kept and described in plain values, so that a checkpoint can rebuild it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

_KEPT = "_constructed_by"
_UNNAMED = "*"
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)


class KeepsArguments:
    """Base of classes whose instances keep the arguments of their constructor, defaults included, in `arguments`.

    A checkpoint stores them: `type(module)(**module.arguments)` builds the same layers again.
    """

    # Arguments that rebuilding does not need. They need not be picklable.
    not_kept: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _keeping(cls.__init__)  # type: ignore[method-assign]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        kept: dict[str, Any] = self.__dict__[_KEPT][1]
        return kept


class UndescribedError(Exception):
    """Plain values cannot describe a module; the message says which part of it, and why."""


def keep_arguments(module: nn.Module, arguments: Mapping[str, Any], *, builder: str | None = None) -> None:
    """Keep the arguments of a module that does not do so itself; `builder` is the dotted path of a function."""
    module.__dict__.setdefault(_KEPT, (builder, dict(arguments)))


def describe(classifier: nn.Module) -> dict[str, Any]:
    """Describe how to rebuild a classifier: `class_path` and `init_args` in plain values, the network's inside.

    An argument that plain values cannot describe is left out, and `undescribed` says why, by the argument's name.
    Options of training alone (optimizer, schedule) are not part of it.
    """
    init_args: dict[str, Any] = {}
    undescribed: dict[str, str] = {}
    for name, value in classifier.__dict__[_KEPT][1].items():
        value = classifier.network if name == "network" else value
        try:
            init_args[name] = _plain(value, where=f"model.{name}", name=name)
        except UndescribedError as error:
            undescribed[name] = str(error)
    record = {"class_path": _path(type(classifier)), "init_args": init_args}
    return {**record, "undescribed": undescribed} if undescribed else record


def _keeping(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if _KEPT not in self.__dict__:  # the subclass's constructor runs first
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments: dict[str, Any] = {}
            for name, value in list(bound.arguments.items())[1:]:
                kind = signature.parameters[name].kind
                if kind is inspect.Parameter.VAR_KEYWORD:
                    arguments.update(value)
                elif kind is not inspect.Parameter.VAR_POSITIONAL:
                    arguments[name] = value
                elif value:
                    arguments[_UNNAMED] = value
            # Past nn.Module.__setattr__, which needs nn.Module.__init__ to have run.
            self.__dict__[_KEPT] = (None, {name: arguments[name] for name in arguments if name not in self.not_kept})
        elif (unnamed := self.arguments.get(_UNNAMED)) and args[: len(unnamed)] == unnamed:
            # Passed on unchanged: this constructor has names for them.
            del self.arguments[_UNNAMED]
            self.arguments.update(zip(list(signature.parameters)[1:], unnamed, strict=False))
        init(self, *args, **kwargs)

    return wrapped


def _plain(value: Any, *, where: str, name: str = "") -> Any:
    if name == _UNNAMED:
        raise UndescribedError(f"{where}: positional arguments have no names: pass keywords")
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        inner = [_plain(item, where=f"{where}[{place}]") for place, item in enumerate(value)]
        return inner if isinstance(value, list) else tuple(inner)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, nn.Module):
        return _module(value, where=where)
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"class_path": _importable(value, where=where)}
    raise UndescribedError(f"{where} is a {type(value).__name__}, which is not a plain value")


def _module(module: nn.Module, *, where: str) -> dict[str, Any]:
    builder, arguments = module.__dict__.get(_KEPT) or (None, _attributes(module))
    if arguments is None:
        raise UndescribedError(
            f"{where}: {_path(type(module))} does not keep the arguments of its constructor: "
            "name it in a config, or derive it from litlens.Network"
        )
    defaults = _defaults(type(module))
    plain = {}
    for name, value in arguments.items():
        try:
            plain[name] = _plain(value, where=f"{where}.{name}", name=name)
        except UndescribedError:
            # The constructor sets its own default again.
            if name not in defaults or not _same(value, defaults[name]):
                raise
    return {"class_path": builder or _importable(type(module), where=where), "init_args": plain}


def _attributes(module: nn.Module) -> dict[str, Any] | None:
    """The arguments of a module of torch.nn whose constructor stores each as an attribute of the same name."""
    kind = type(module)
    names = inspect.signature(kind).parameters
    if not names or kind.__init__ is nn.Module.__init__:
        return {}
    values = {name: getattr(module, name, module) for name in names}
    plain = all(type(value) in (*_PLAIN, tuple) for value in values.values())
    return values if plain and kind.__module__.startswith("torch.nn.") else None


def _defaults(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found.update({one.name: one.default for one in parameters if one.default is not one.empty})
    return found


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, functools.partial) and isinstance(default, functools.partial):
        return (value.func, value.args, value.keywords) == (default.func, default.args, default.keywords)
    return value is default


def _importable(kind: type, *, where: str) -> str:
    path = _path(kind)
    if "<locals>" in path:
        raise UndescribedError(f"{where}: {path} is defined inside a function: move it to the top of a module")
    return path


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
