"""Parameter groups, and penalties against autograd."""

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn

from litlens.checkpoints.record import rebuild
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.constructor_arguments import describe
from litlens.models.networks.scratch import MnistCNN
from litlens.models.optimization import MuonAdamW, add_penalty_gradients, build_optimizer, kernels, orthogonal


@pytest.mark.parametrize(("l1", "l2"), [(0.01, 0.0), (0.0, 0.02), (0.01, 0.02)])
def test_penalties_are_autograds(l1: float, l2: float) -> None:
    torch.manual_seed(0)
    network = MnistCNN().eval()
    images, labels = torch.randn(2, 1, 28, 28), torch.tensor([1, 2])
    weights = [weight for name, weight in network.named_parameters() if weight.ndim > 1]
    penalty = l1 * sum(w.abs().sum() for w in weights) + l2 * sum(w.square().sum() for w in weights)
    loss = nn.functional.cross_entropy(network(images), labels)
    expected = torch.autograd.grad(loss + penalty, list(network.parameters()))

    nn.functional.cross_entropy(network(images), labels).backward()
    add_penalty_gradients(kernels(network.parameters()), l1=l1, l2=l2)
    for weight, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-5, atol=1e-7)


def test_frozen_weights_are_not_penalized() -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    add_penalty_gradients(layer.parameters(), l1=1.0, l2=1.0)
    assert layer.weight.grad is None


def test_decay_excludes_parameters_of_one_dimension() -> None:
    network = MnistCNN()
    optimizer = build_optimizer(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3), network)
    decayed, spared = optimizer.param_groups
    assert (decayed["name"], decayed["weight_decay"]) == ("weights", 0.3)
    assert (spared["name"], spared["weight_decay"]) == ("biases", 0.0)
    assert len(decayed["params"]) == 5
    assert len(spared["params"]) == 5 + 4
    assert all(weight.ndim > 1 for weight in decayed["params"])


def test_without_decay_there_is_one_group() -> None:
    network = MnistCNN()
    for make in (torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS, torch.optim.Adagrad):
        (group,) = build_optimizer(make, network).param_groups
        assert len(group["params"]) == 14


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 2)


def test_lr_scales_make_groups_and_the_innermost_name_counts() -> None:
    scales = {"body": 0.5, "body.1": 0.1, "head.bias": 3.0}
    plain = build_optimizer(lambda p: torch.optim.SGD(p, lr=2.0), Two(), scales)
    rates = {group.get("name"): (group["lr"], len(group["params"])) for group in plain.param_groups}
    assert rates == {"body": (1.0, 2), "body.1": (0.2, 2), None: (2.0, 1), "head.bias": (6.0, 1)}
    decayed = build_optimizer(lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.5), Two(), {"body": 0.1})
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in decayed.param_groups] == [
        ("body_weights", 0.1, 0.5),
        ("body_biases", 0.1, 0.0),
        ("weights", 1.0, 0.5),
        ("biases", 1.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"head": 0.1, "bod": 1.0}, "the network has no parameters in 'bod'; did you mean 'body'?"),
        ({"": 1.0}, "the network has no parameters in ''; choose from body, head, body.0, body.1, head.weight"),
        ({"head": 0.0}, "head: 0.0 is not positive"),
    ],
)
def test_a_wrong_lr_scale_is_one_line(scales: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(f'model.lr_scales: {message}')}") as caught:
        ImageClassifier(Two(), ["a", "b"], lr_scales=scales)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_records_the_lr_scales() -> None:
    classifier = ImageClassifier(MnistCNN(2), ["a", "b"], lr_scales={"head": 0.03})
    again = rebuild(describe(classifier))
    rates = [group["lr"] for group in again.build_optimizer().param_groups]
    assert rates == pytest.approx([0.001, 0.00003])


def test_a_value_that_the_optimizer_refuses_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^model\.optimizer: Invalid learning rate: -1$"):
        build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=-1), nn.Linear(2, 2))


def test_muon_moves_the_inner_kernels_as_torchs_own_and_adamw_the_rest() -> None:
    muon = pytest.importorskip("torch.optim._muon", reason="torch has no Muon before 2.9").Muon
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = build_optimizer(partial(MuonAdamW, betas=(0.9, 0.99), **settings), ours)
    inner = [theirs[2].weight]
    others = [weight for weight in kernels(theirs.parameters()) if weight is not inner[0]]
    groups = [{"params": others}, {"params": [w for w in theirs.parameters() if w.ndim == 1], "weight_decay": 0.0}]
    expected = [
        muon(inner, momentum=0.9, adjust_lr_fn="match_rms_adamw", **settings),
        torch.optim.AdamW(groups, betas=(0.9, 0.99), **settings),
    ]
    images, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    for number in range(4):
        for network, steps in ((ours, [optimizer]), (theirs, expected)):
            network.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            for step in steps:
                step.step()
        if number == 1:  # a state that is loaded goes on
            state = optimizer.state_dict()
            optimizer = build_optimizer(partial(MuonAdamW, betas=(0.9, 0.99), **settings), ours)
            optimizer.load_state_dict(state)
    for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=2e-5)  # Muon's is in bf16


def test_a_kernel_of_a_convolution_is_moved_as_the_matrix_of_its_filters() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    kernel = network.to(memory_format=torch.channels_last)[1].weight
    before = kernel.detach().clone()
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    expected = orthogonal(kernel.grad.flatten(1)) * 0.1 * 0.2 * 36**0.5  # the momentum's direction is the gradient's
    MuonAdamW(network.parameters(), lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close((before - kernel).flatten(1), expected, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_the_singular_values_are_brought_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.65  # Jordan's coefficients: 0.7 to 1.2, here in bf16
    assert values.max() < 1.25
