"""Figures of the network: Grad-CAM, feature maps, its graph, histograms of weights and activations."""

import io
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from litlens.callbacks.live.drawing import names_of_classes, show_figure, show_histogram, split_title, warn_once
from litlens.callbacks.live.samples import Samples, ShownSamples
from litlens.evaluation.sample_figures import cam_figure, feature_maps_figure
from litlens.explain.cam import cam
from litlens.explain.feature_maps import feature_maps
from litlens.explain.preserve_state import at_home, preserve_state


class GradCam(ShownSamples):
    """Shows samples, each next to its class activation map for the predicted class: `grad_cam/val`.

    Args:
        samples: How many samples.
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
        layer: See `litlens.explain.cam.cam`.
        method: See `litlens.explain.cam.cam`; all but `gradcam` are slow.
    """

    def __init__(
        self,
        samples: int = 8,
        every_n_epochs: int | None = None,
        layer: str | int = "auto",
        method: str = "gradcam",
    ) -> None:
        super().__init__(samples, every_n_epochs)
        self.layer, self.method = layer, method

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        found = cam(network, samples.images, layer=self.layer, method=self.method)
        predicted, maps = found.predicted.numpy(), found.maps.numpy()
        names = names_of_classes(pl_module, int(max(predicted.max(), samples.labels.max())) + 1)
        method = "Grad-CAM" if self.method == "gradcam" else self.method
        title = f"{split_title(trainer, 'val')}: {method} of the predicted class, layer {found.layer}"
        show_figure(
            trainer,
            "grad_cam/val",
            lambda: cam_figure(samples.pixels, maps, samples.labels, predicted, names, title=title),
        )


class FeatureMaps(ShownSamples):
    """Shows the maps of the first, the middle and the last convolution for one image: `feature_maps/val`.

    Args:
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
        layers: Names or numbers of other layers; see `litlens.explain.feature_maps.feature_maps`.
    """

    def __init__(self, every_n_epochs: int | None = None, layers: Sequence[str | int] | None = None) -> None:
        super().__init__(1, every_n_epochs)
        self.layers = layers

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        found = feature_maps(network, samples.images, self.layers)
        maps = {name: values[0].numpy() for name, values in found.items()}
        title = f"{split_title(trainer, 'val')}: {samples.names[0]}"
        show_figure(trainer, "feature_maps/val", lambda: feature_maps_figure(samples.pixels[0], maps, title=title))


class Histograms(ShownSamples):
    """Shows the distribution of every parameter, `weights/NAME`, and of every layer's output, `activations/NAME`.

    Activations are those of fixed samples, in eval mode, of layers without children. Off by default, since a deep
    network has hundreds of histograms.
    """

    def __init__(self, samples: int = 16, every_n_epochs: int | None = None) -> None:
        super().__init__(samples, every_n_epochs)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        for name, parameter in network.named_parameters():
            show_histogram(trainer, f"weights/{name}", parameter)

        def show_output(name: str, _layer: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                show_histogram(trainer, f"activations/{name}", output)

        with preserve_state(network), torch.no_grad(), ExitStack() as hooks:
            for name, layer in network.named_modules():
                if not any(layer.children()):
                    hooks.enter_context(layer.register_forward_hook(partial(show_output, name)))
            network(at_home(samples.images, network))


class ModelGraph(ShownSamples):
    """Adds the network's graph once, in the first validation; a network that cannot be traced is reported.

    TensorBoard shows it in the tab GRAPHS, W&B in the overview of a run.
    """

    def __init__(self) -> None:
        super().__init__(samples=1, every_n_epochs=1)

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self._finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._finished = state_dict["finished"]

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        self._finished = True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger | WandbLogger):
                continue
            try:
                # Tracing warns of branches and of its deprecation, and prints if it fails; W&B prints its progress.
                with (
                    preserve_state(network),
                    torch.no_grad(),
                    warnings.catch_warnings(),
                    redirect_stdout(io.StringIO()),
                    redirect_stderr(io.StringIO()),
                ):
                    warnings.simplefilter("ignore")
                    _add_graph(logger, network, at_home(samples.images, network))
            except Exception as error:  # a network may do anything that the tracer cannot follow
                reason = str(error).strip().partition("\n")[0]
                warn_once(self, f"{type(network).__name__} cannot be traced: {reason}")


def _add_graph(logger: TensorBoardLogger | WandbLogger, network: nn.Module, images: Tensor) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_graph(network, images)
        return
    if getattr(network, "_wandb_watch_called", False):
        return  # the user has called watch, which adds the graph; a second call is an error
    # W&B's graph comes from hooks that run in the next forward pass; remove them afterwards.
    logger.watch(network, log=None, log_graph=True)  # type: ignore[arg-type, unused-ignore]
    try:
        network(images)
    finally:
        logger.experiment.unwatch(network)
        for module in network.modules():  # unwatch leaves this mark, and the user's watch would fail
            vars(module).pop("_wandb_watch_called", None)
