"""Initializing a network with the weights of another run."""

from pathlib import Path

from torch import nn

from litlens.checkpoints.reading import read_checkpoint
from litlens.errors import UserError


def initialize_from(network: nn.Module, class_names: list[str], path: str | Path) -> list[str]:
    """Copy the weights of a checkpoint's network into `network`; return the names of the weights that are not copied.

    Where the classes differ, the weights of the last layer (the head, whose rows are the classes) are not copied.

    Raises UserError where anything else differs: it is another network.
    """
    checkpoint = read_checkpoint(path)
    prefix = "network."
    stored = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    own = network.state_dict()
    head = {name for name in own if name.rpartition(".")[0] == list(own)[-1].rpartition(".")[0]}
    same_classes = checkpoint["litlens"]["class_names"] == class_names
    fresh = [] if same_classes else sorted(head)
    for name in [name for name in own if name not in fresh]:
        if name not in stored:
            raise UserError(f"model.init_from: {path} has no weights for {name}: it holds another network")
        if stored[name].shape != own[name].shape:
            raise UserError(
                f"model.init_from: {name} is {list(stored[name].shape)} in {path} and {list(own[name].shape)} here: "
                "it holds a network of another size"
            )
    surplus = sorted(set(stored) - set(own))
    if surplus:
        raise UserError(f"model.init_from: {path} holds {surplus[0]}, which this network lacks: it is another network")
    network.load_state_dict({name: own[name] if name in fresh else stored[name] for name in own})
    return fresh
