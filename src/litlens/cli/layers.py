"""What the command says of a network before it trains, in place of Lightning's summary.

That would count FLOPs of a network that it has not run (0 of each layer), round the parameters, and list the metrics
beside the network.
"""

from collections.abc import Iterator

from rich.table import Table
from torch import nn

from litlens.models.classifier import ImageClassifier
from litlens.models.transfer import TransferClassifier

_ROWS = 16  # of a network whose layers are more, the parts that hold them


def layer_table(classifier: ImageClassifier) -> Table:
    """Every layer that has parameters, or the part of a deep network that it is in, how many, and whether they train.

    The last row has the sums, and under `trains` how many of the parameters do, sooner or later.
    """
    table = Table("layer", "type", "parameters", "trains", box=None)
    total = _size(classifier.network)
    fixed = 0
    rows = _layers_of_backbone(classifier) if isinstance(classifier, TransferClassifier) else _parts(classifier.network)
    for name, layer, trains in rows:
        if size := _size(layer):
            table.add_row(name, type(layer).__name__, f"{size:,}", trains)
            fixed += size if trains == "no" else 0
    table.add_row("", "", f"{total:,}", f"{total - fixed:,}")
    return table


def _layers_of_backbone(classifier: TransferClassifier) -> Iterator[tuple[str, nn.Module, str]]:
    network, lowest = classifier.network, classifier.first_trainable_layer(None)
    later = "" if classifier.unfreeze_epoch is None else f", from epoch {classifier.unfreeze_epoch}"
    for number, name in enumerate([*network.layer_names, "head"]):
        known = network.aliases.get(name)
        trains = "no" if number < lowest else "yes" + (later if name != "head" else "")
        yield f"{name} ({known})" if known else name, network.get_submodule(name), trains


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    parts = {"": network}
    while len(deeper := dict(_one_level_down(parts))) <= _ROWS and deeper != parts:
        parts = deeper
    for name, part in parts.items():
        yield name, part, "yes" if any(parameter.requires_grad for parameter in part.parameters()) else "no"


def _one_level_down(parts: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """What each part is made of; a part that has parameters of its own stays whole."""
    for name, part in parts.items():
        inner = [(child, module) for child, module in part.named_children() if _size(module)]
        if not inner or any(True for _ in part.parameters(recurse=False)):
            yield name, part
            continue
        for child, module in inner:
            yield f"{name}.{child}" if name else child, module


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
