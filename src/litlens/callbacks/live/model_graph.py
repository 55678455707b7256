"""The network as a graph, for TensorBoard's tab of that name and the overview of a W&B run."""

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from litlens.callbacks.live.shown_samples import Samples, ShownSamples
from litlens.explain.preserve_state import at_home, preserve_state

_log = logging.getLogger(__name__)


class ModelGraph(ShownSamples):
    """Adds the network's graph once, in the first validation. A network that cannot be traced goes on without."""

    def __init__(self) -> None:
        super().__init__(samples=1, every_n_epochs=1)

    def show(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module, samples: Samples) -> None:
        """Trace the network with one image."""
        self._finished = True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger | WandbLogger):
                continue
            try:
                # Tracing warns of branches and of its own end, and prints where it fails; W&B tells that it is at work.
                with (
                    preserve_state(network),
                    torch.no_grad(),
                    warnings.catch_warnings(),
                    redirect_stdout(io.StringIO()),
                    redirect_stderr(io.StringIO()),
                ):
                    warnings.simplefilter("ignore")
                    _add_graph(logger, network, at_home(samples.images, network))
            except Exception as error:  # whatever a network does that the tracer cannot follow
                reason = str(error).strip().partition("\n")[0]
                _log.warning("ModelGraph: %s cannot be traced: %s", type(network).__name__, reason)


def _add_graph(logger: TensorBoardLogger | WandbLogger, network: nn.Module, images: Tensor) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_graph(network, images)
        return
    if getattr(network, "_wandb_watch_called", False):
        return  # by its owner, who has the graph from it; a second call is an error
    # W&B's graph comes from hooks that the next forward pass fulfils; nothing is to stay on the network.
    logger.watch(network, log=None, log_graph=True)  # type: ignore[arg-type, unused-ignore]
    try:
        network(images)
    finally:
        logger.experiment.unwatch(network)
        for module in network.modules():  # which unwatch leaves marked, so that a watch by its owner would fail
            vars(module).pop("_wandb_watch_called", None)
