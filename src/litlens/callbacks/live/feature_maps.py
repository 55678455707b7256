"""What single layers make of one validation image."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from litlens.callbacks.live.drawing import show_figure, split_title
from litlens.callbacks.live.shown_samples import Samples, ShownSamples
from litlens.evaluation.sample_figures import feature_maps_figure
from litlens.explain.feature_maps import feature_maps


class FeatureMaps(ShownSamples):
    """Shows the maps of the first, the middle and the last convolution for one image: `feature_maps/val`.

    Args:
        every_n_epochs: How often, and at the end of a run that reaches `max_epochs`; by default about ten times.
        layers: Names or numbers of other layers; see `litlens.explain.feature_maps.feature_maps`.
    """

    def __init__(self, every_n_epochs: int | None = None, layers: Sequence[str | int] | None = None) -> None:
        super().__init__(1, every_n_epochs)
        self.layers = layers

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Compute the maps and draw."""
        found = feature_maps(network, samples.images, self.layers)
        maps = {name: values[0].numpy() for name, values in found.items()}
        title = f"{split_title(trainer, 'val')}: {samples.names[0]}"
        show_figure(trainer, "feature_maps/val", lambda: feature_maps_figure(samples.pixels[0], maps, title=title))
