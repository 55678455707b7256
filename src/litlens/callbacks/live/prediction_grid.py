"""What the network makes of a fixed set of validation samples: right in green, wrong in red."""

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from litlens.callbacks.live.drawing import names_of_classes, show_figure, split_title
from litlens.callbacks.live.shown_samples import Samples, ShownSamples, probabilities_of
from litlens.evaluation.sample_figures import prediction_grid_figure


class PredictionGrid(ShownSamples):
    """Shows the same samples with the class predicted, every time: `prediction_grid/val`."""

    def __init__(self, samples: int = 16, every_n_epochs: int | None = None) -> None:
        super().__init__(samples, every_n_epochs)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Run the whole network on the samples and draw."""
        shares = probabilities_of(network, samples.images)
        names, title = names_of_classes(pl_module, shares.shape[1]), split_title(trainer, "val")
        show_figure(
            trainer,
            "prediction_grid/val",
            lambda: prediction_grid_figure(samples.pixels, samples.labels, shares, names, title=title),
        )
