"""The network as a graph, for TensorBoard's tab of that name."""

import io
import logging
import warnings
from contextlib import redirect_stdout

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from litlens.callbacks.live.shown_samples import Samples, ShownSamples
from litlens.explain.untouched import at_home, untouched

_log = logging.getLogger(__name__)


class ModelGraph(ShownSamples):
    """Adds the network's graph once, in the first validation. A network that cannot be traced goes on without."""

    def __init__(self) -> None:
        super().__init__(samples=1, every_n_epochs=1)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Trace the network with one picture."""
        self._finished = True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            # Tracing warns of branches and of its own end, and prints where it fails.
            with untouched(network), torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                try:
                    logger.experiment.add_graph(network, at_home(samples.images, network))
                except Exception as error:  # whatever a network does that the tracer cannot follow
                    reason = str(error).strip().partition("\n")[0]
                    _log.warning("ModelGraph: %s cannot be traced: %s", type(network).__name__, reason)
