"""What the command says of a pretrained network before it trains: which layers train, and whether the data fit it."""

import math
from typing import Any

from rich.table import Table
from torch import nn

from litlens.data.preprocessing import NORMALIZATIONS, Preprocessing
from litlens.errors import UserError
from litlens.models.transfer import TransferClassifier


def check_normalization(network: nn.Module, preprocessing: Preprocessing) -> None:
    """Raise UserError where the network's weights want other pixels than the data module makes.

    For grey pictures the three channels' mean and std are averaged: one constant serves all three copies.
    """
    wanted: Any = getattr(network, "weights_normalization", None)
    if wanted is None:
        return
    if isinstance(wanted, str):
        mean, std = NORMALIZATIONS[wanted]
    else:
        mean, std = tuple(wanted["mean"]), tuple(wanted["std"])
    if preprocessing.channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    given = (*preprocessing.mean, *preprocessing.std)
    if all(math.isclose(a, b, abs_tol=5e-4) for a, b in zip((*mean, *std), given, strict=True)):
        return
    name = next((name for name, known in NORMALIZATIONS.items() if known == (mean, std)), None)
    value = name or f"{{mean: {_rounded(mean)}, std: {_rounded(std)}}}"
    raise UserError(
        f"data.normalize: the weights were trained with mean {_rounded(mean)} and std {_rounded(std)}, the data have "
        f"{_rounded(preprocessing.mean)} and {_rounded(preprocessing.std)}: set data.normalize to {value}"
    )


def layer_table(classifier: TransferClassifier) -> Table:
    """Every layer that has parameters, how many, and whether it trains."""
    network, lowest = classifier.network, classifier.first_trained(None)
    later = "" if classifier.unfreeze_epoch is None else f", from epoch {classifier.unfreeze_epoch}"
    table = Table("layer", "type", "parameters", "trains", box=None)
    for number, name in enumerate([*network.layer_names, "head"]):
        layer = network.get_submodule(name)
        if size := sum(parameter.numel() for parameter in layer.parameters()):
            trains = "no" if number < lowest else "yes" + (later if name != "head" else "")
            known = network.known_as.get(name)
            kind = type(layer).__name__
            table.add_row(f"{name} ({known})" if known else name, kind, f"{size:,}", trains)
    return table


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in values]
