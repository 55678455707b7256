"""Options of a model and its network that are set from the data, by our command and by any LightningCLI."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, get_args, get_origin

import lightning.pytorch.cli
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from litlens.errors import UserError
from litlens.models.pretrained import timm_network_has_size

# Options that are set from the data, each with the attribute of the data module; two are timm's.
_LINKED = {
    "num_classes": "num_classes",
    "in_channels": "in_channels",
    "in_chans": "in_channels",
    "image_size": "image_size",
    "img_size": "image_size",
}
_add_function_arguments = LightningArgumentParser.add_function_arguments


def link_data_to_model(parser: LightningArgumentParser) -> None:
    """Link options of the model and its network to the data module; call it in `add_arguments_to_parser`.

    The model's `class_names`, and what the model or its network has of `num_classes`, `in_channels` and `image_size`
    (timm's `in_chans` and `img_size`), get the values of the data module's attributes, whatever a config says. The size
    is (height, width) or, where a network takes one number, the side of a square.
    """
    known = {action.dest for action in parser._actions}
    one_class = "model.help" not in known  # not any class that a config names
    model = "model" if one_class else "model.init_args"
    network = f"{model}.network"
    links = {f"{model}.{name}": source for name, source in {"class_names": "class_names", **_LINKED}.items()}
    links |= {f"{network}.init_args.{name}": source for name, source in _LINKED.items()}
    options: dict[str, Any] = {}  # of the network that is constructed, with their types

    def size_in(target: str) -> Callable[[tuple[int, int]], tuple[int, int] | int]:
        kind = target.rpartition(".")[2]
        return lambda size: _side(size) if _is_side(options[kind]) else size

    for target, source in links.items():
        # Of one class, a link to an option that it does not have is an error.
        if not one_class or {target, target.partition(".init_args")[0]} & known:
            compute = size_in(target) if source == "image_size" and target.startswith(network) else None
            parser.link_arguments(f"data.{source}", target, compute_fn=compute, apply_on="instantiate")
    # In the configuration of one class, its own linked options are left out.
    always = {target for target in links if one_class and target in known}
    instantiate, group = parser.instantiate, parser._links_group  # type: ignore[attr-defined]

    def instantiate_with_links(cfg: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        # jsonargparse counts a link to an option that a class does not have as applied, and Lightning would write the
        # option into the checkpoint's hyper-parameters, from which the class could not be constructed again.
        if isinstance(path := cfg.get(f"{network}.class_path"), str):
            options.clear()
            options.update(parameters(resolve_name(path)))
        absent = {target for target in links if target not in always and target not in cfg}
        every = group._group_actions
        group._group_actions = [link for link in every if link.dest not in absent]
        try:
            built: Namespace = instantiate(cfg, *args, **kwargs)
            return built
        finally:
            group._group_actions = every

    parser.instantiate = instantiate_with_links


def linked_values(network: Namespace, data: LightningDataModule) -> dict[str, Any]:
    """The options of a configured network that follow from the data, such as `init_args.num_classes`."""
    builder = resolve_name(network.class_path)
    named, keywords = parameters(builder), dict[str, Any]()
    if getattr(builder, "__module__", "").startswith("timm."):
        # timm.create_model passes them on to a network that its first argument names.
        keywords = {"num_classes": int, "in_chans": int}
        if timm_network_has_size(str(network.init_args.get("model_name"))):
            keywords["img_size"] = tuple[int, int]
    options = {f"init_args.{name}": kind for name, kind in named.items() if name in _LINKED}
    options |= {f"dict_kwargs.{name}": kind for name, kind in keywords.items() if name not in named}
    values = {}
    for option, kind in options.items():
        value = getattr(data, _LINKED[option.partition(".")[2]])
        values[option] = (_side(value) if _is_side(kind) else list(value)) if isinstance(value, tuple) else value
    return values


def parameters(builder: Callable[..., Any]) -> dict[str, Any]:
    """Name the options of a class or function, with their types, including those of its **kwargs."""
    parser = ArgumentParser(add_help=False)
    add = parser.add_class_arguments if isinstance(builder, type) else parser.add_function_arguments
    names = add(builder, fail_untyped=False)
    types = {action.dest: getattr(action, "_typehint", action.type) for action in parser._actions}
    return {name: types.get(name) for name in names}


def _is_side(kind: Any) -> bool:
    """Whether an option for the size takes one side of a square image, as torchvision's transformers do."""
    kinds = (kind, *get_args(kind))
    return int in kinds and tuple not in [get_origin(kind) for kind in kinds]


def _side(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise UserError(f"data.image_size: {list(size)}: the network takes square images only")
    return size[0]


def _without_links(
    parser: LightningArgumentParser, function: Any, *args: Any, linked_targets: Any = None, **kwargs: Any
) -> list[str]:
    """Add the options of a function that constructs a linked network.

    jsonargparse 4.53 passes `linked_targets`, which `add_function_arguments` does not take, and then makes them
    optional itself (`cached_get_class_parser` in jsonargparse/_typehints.py; no issue is known).
    """
    return _add_function_arguments(parser, function, *args, **kwargs)


def _set_nested(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a hyper-parameter by its dotted key.

    Lightning 2.6 fails where all options of the network are linked: its dump has no `init_args` then
    (`_set_dict_nested` in lightning/pytorch/cli.py; no issue is known).
    """
    *parents, name = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    data[name] = value


LightningArgumentParser.add_function_arguments = _without_links  # type: ignore[assignment]
lightning.pytorch.cli._set_dict_nested = _set_nested
