"""Distributions of weights and activations."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from litlens.callbacks.live.drawing import show_histogram
from litlens.callbacks.live.shown_samples import Samples, ShownSamples
from litlens.explain.preserve_state import at_home, preserve_state


class Histograms(ShownSamples):
    """Shows the distribution of every parameter, `weights/NAME`, and of every layer's output, `activations/NAME`.

    Outputs are those for the same samples, in evaluation mode, of layers without children. Not among the
    command's defaults: for a deep network these are hundreds of histograms.
    """

    def __init__(self, samples: int = 16, every_n_epochs: int | None = None) -> None:
        super().__init__(samples, every_n_epochs)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Add all of them."""
        for name, parameter in network.named_parameters():
            show_histogram(trainer, f"weights/{name}", parameter)

        def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
            def add(_layer: nn.Module, _inputs: object, output: object) -> None:
                if isinstance(output, Tensor):
                    show_histogram(trainer, f"activations/{name}", output)

            return layer.register_forward_hook(add)

        leaves = [(name, layer) for name, layer in network.named_modules() if not any(layer.children())]
        with preserve_state(network), torch.no_grad():
            handles = [watch(name, layer) for name, layer in leaves]
            try:
                network(at_home(samples.images, network))
            finally:
                for handle in handles:
                    handle.remove()
