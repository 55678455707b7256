"""What the optimizer is given: which weights decay, each group's learning rate, and L1 and L2 penalties."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from litlens.errors import UserError


def build_optimizer(make: Callable[[Any], Optimizer], network: nn.Module) -> Optimizer:
    """The optimizer of all the network's parameters, in groups where they are treated differently.

    Weight decay spares biases and norms, everything of one dimension: few, they hardly overfit, and sparing
    them gains accuracy ("no bias decay", He et al. 2019, "Bag of Tricks for Image Classification", section
    3.1).

    A network may have a method `parameter_groups()` that returns dicts as torch's optimizers take them, with
    all parameters, a `name`, and optionally `lr_scale`, by which the optimizer's learning rate is multiplied.

    Raises UserError where the optimizer refuses an option, such as a negative learning rate.
    """
    try:
        plain = make(list(network.parameters()))
    except ValueError as error:
        raise UserError(f"model.optimizer: {error}") from error
    decay, rate = plain.defaults.get("weight_decay", 0.0), plain.defaults.get("lr", 1.0)
    grouping = getattr(network, "parameter_groups", None)
    if grouping is None and not decay:
        return plain  # one group: some optimizers (LBFGS) take no more
    groups: list[dict[str, Any]] = []
    for group in grouping() if grouping else [{"params": network.parameters()}]:
        parameters = list(group["params"])
        settings = {key: value for key, value in group.items() if key != "params"}
        if "lr_scale" in settings:
            settings["lr"] = rate * settings["lr_scale"]
        if not decay:
            groups.append({**settings, "params": parameters})
            continue
        name = f"{settings.pop('name')}_" if "name" in settings else ""
        spared = [weight for weight in parameters if weight.ndim <= 1]
        groups.append({**settings, "name": f"{name}weights", "params": kernels(parameters)})
        groups.append({**settings, "name": f"{name}biases", "params": spared, "weight_decay": 0.0})
    return make([group for group in groups if group["params"]])


def adam(parameters: Any) -> Optimizer:
    """The default optimizer."""
    return torch.optim.Adam(parameters, lr=0.001)


def kernels(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The weights of convolutions and linear layers, not biases and norms: what is decayed and penalised."""
    return [weight for weight in parameters if weight.ndim > 1]


@torch.no_grad()
def add_penalty_gradients(weights: Iterable[nn.Parameter], *, l1: float, l2: float) -> None:
    """Adds the gradient of l1 · Σ|w| + l2 · Σw² (Keras' convention, without a half) to those of the weights.

    The same as adding the sums to the loss, at a fraction of the cost: nothing passes through autograd.
    """
    trained: list[Tensor] = [weight for weight in weights if weight.grad is not None]
    gradients = [weight.grad for weight in trained if weight.grad is not None]
    if l1 and trained:
        torch._foreach_add_(gradients, torch._foreach_sign(trained), alpha=l1)
    if l2 and trained:
        torch._foreach_add_(gradients, trained, alpha=2 * l2)
