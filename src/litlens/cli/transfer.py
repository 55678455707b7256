"""What the command says of a pretrained network before it trains: which layers train."""

from rich.table import Table

from litlens.models.transfer import TransferClassifier


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
