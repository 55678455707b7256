"""Where the network looks, on a fixed set of validation samples."""

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from litlens.callbacks.live.drawing import names_of_classes, show_figure, split_title
from litlens.callbacks.live.shown_samples import Samples, ShownSamples
from litlens.evaluation.sample_figures import cam_figure
from litlens.explain.cam import cam


class GradCam(ShownSamples):
    """Shows the same samples, each beside its map for the class predicted, every time: `grad_cam/val`.

    Args:
        samples: How many.
        every_n_epochs: How often, and at the end of a run that reaches `max_epochs`; by default about ten times.
        layer: See `litlens.explain.cam.cam`, as for `method`.
        method: Any but `gradcam` takes its time.
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
        """Compute the maps and draw."""
        found = cam(network, samples.images, layer=self.layer, method=self.method)
        predicted, maps = found.predicted.numpy(), found.maps.numpy()
        names = names_of_classes(pl_module, int(max(predicted.max(), samples.labels.max())) + 1)
        title = f"{split_title(trainer, 'val')}: where the network looks ({found.layer})"
        show_figure(
            trainer,
            "grad_cam/val",
            lambda: cam_figure(samples.pixels, maps, samples.labels, predicted, names, title=title),
        )
