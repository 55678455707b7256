"""Which weights decay, the learning rate of each group of parameters, L1 and L2 penalties, and an optimizer."""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from litlens.errors import UserError, nearest


def build_optimizer(
    make: Callable[[Any], Optimizer], network: nn.Module, lr_scales: Mapping[str, float] | None = None
) -> Optimizer:
    """Build the optimizer of all parameters of the network, in groups where they are treated differently.

    Weight decay excludes biases and norms, all parameters of one dimension: they are few and hardly overfit, and
    accuracy is better without their decay ("no bias decay", He et al. 2019, "Bag of Tricks for Image Classification",
    section 3.1).

    The keys of `lr_scales` are modules or parameters of the network (`head`, `features.0`), each a group of that name
    whose learning rate is the optimizer's times the value. For a parameter in several of them, the innermost counts.

    Raises UserError where the optimizer refuses an option, such as a negative learning rate.
    """
    try:
        plain = make(list(network.parameters()))
    except ValueError as error:
        raise UserError(f"model.optimizer: {error}") from error
    decay, rate = plain.defaults.get("weight_decay", 0.0), plain.defaults.get("lr", 1.0)
    if not lr_scales and not decay:
        return plain  # one group: some optimizers (LBFGS) take no more
    by_name: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        by_name.setdefault(innermost(name, lr_scales or {}), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for name, parameters in by_name.items():
        scale = {"name": name, "lr": rate * lr_scales[name], "lr_scale": lr_scales[name]} if lr_scales and name else {}
        if not decay:
            groups.append({**scale, "params": parameters})
            continue
        prefix = f"{name}_" if name else ""
        excluded = [weight for weight in parameters if weight.ndim <= 1]
        groups.append({**scale, "name": f"{prefix}weights", "params": kernels(parameters)})
        groups.append({**scale, "name": f"{prefix}biases", "params": excluded, "weight_decay": 0.0})
    return make([group for group in groups if group["params"]])


def is_within(name: str, outer: str) -> bool:
    """Whether a module or parameter is, or is inside, the module `outer`; all are inside the empty name."""
    return name == outer or outer == "" or name.startswith(f"{outer}.")


def innermost(name: str, modules: Iterable[str]) -> str:
    """The innermost of the modules that a parameter is in; empty if it is in none."""
    return max((module for module in modules if is_within(name, module)), key=len, default="")


def check_lr_scales(lr_scales: Mapping[str, float], network: nn.Module) -> None:
    """Raise UserError for a key that names no parameters of the network, and for a scale that is not positive."""
    known = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    known = sorted([*known, *dict(network.named_parameters())], key=lambda name: name.count("."))
    for key, scale in lr_scales.items():
        if key not in known:
            raise UserError(f"model.lr_scales: the network has no parameters in '{key}'{nearest(key, known)}")
        if scale <= 0:
            raise UserError(f"model.lr_scales: {key}: {scale} is not positive: give a number above 0")


def adam(parameters: Any) -> Optimizer:
    """The default optimizer."""
    return torch.optim.Adam(parameters, lr=0.001)


def kernels(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The weights of convolutions and linear layers, which are decayed and penalized; not biases and norms."""
    return [weight for weight in parameters if weight.ndim > 1]


@torch.no_grad()
def add_penalty_gradients(weights: Iterable[nn.Parameter], *, l1: float, l2: float) -> None:
    """Add the gradient of l1 · Σ|w| + l2 · Σw² (Keras' convention, without a half) to those of the weights.

    The result is that of adding the sums to the loss, at a fraction of the cost: autograd is not involved.
    """
    trained: list[Tensor] = [weight for weight in weights if weight.grad is not None]
    gradients = [weight.grad for weight in trained if weight.grad is not None]
    if l1 and trained:
        torch._foreach_add_(gradients, torch._foreach_sign(trained), alpha=l1)
    if l2 and trained:
        torch._foreach_add_(gradients, trained, alpha=2 * l2)


class MuonAdamW(AdamW):
    """Muon for the kernels between the first and the last layer, torch's AdamW for all other parameters.

    Muon moves a kernel along its momentum, made orthogonal: equally far in all directions (K. Jordan et al., "Muon",
    2024, https://kellerjordan.github.io/posts/muon). The length is that of a step of AdamW, so that learning rate
    and decay are the same for all parameters (J. Liu et al., "Muon is scalable for LLM training", 2025, section 2.2).
    `torch.optim.Muon` takes matrices alone.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; the gradients of Muon's kernels are gone after it."""
        with torch.enable_grad():
            loss = closure() if closure else None
        inner = {id(weight) for weight in kernels(p for group in self.param_groups for p in group["params"])[1:-1]}
        for group in self.param_groups:
            rate, beta = group["lr"], group["betas"][0]
            for weight in group["params"]:
                if id(weight) not in inner or weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:  # with the names of AdamW, whose checks of a loaded state want `step`
                    state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
                state["exp_avg"].lerp_(weight.grad, 1 - beta)
                direction = orthogonal(weight.grad.lerp(state["exp_avg"], beta).flatten(1))
                length = 0.2 * max(direction.shape) ** 0.5
                weight.mul_(1 - rate * group["weight_decay"]).sub_(direction.view_as(weight), alpha=rate * length)
                weight.grad = None  # nothing is left to AdamW
        super().step()
        return loss


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, by five steps of Newton and Schulz with Jordan's coefficients."""
    has_bf16 = matrix.device.type != "cpu" or cpu_has_bf16()
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(torch.bfloat16 if has_bf16 else torch.float32)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if is_tall else x).to(matrix.dtype)


def cpu_has_bf16() -> bool:
    """Whether the processor computes in bf16 natively; assumed of every processor that is not x86."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return torch.backends.cpu.get_cpu_capability() == "AVX512"  # all that older torch reports
