"""Callbacks for training a classifier: one concern each, independent of the others and of their order.

A callback decides when to draw, `evaluation` and `explain` draw, and the trainer's loggers decide where it is shown.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litlens.callbacks.collect_predictions import CollectPredictions as CollectPredictions
    from litlens.callbacks.live.network_figures import FeatureMaps as FeatureMaps
    from litlens.callbacks.live.network_figures import GradCam as GradCam
    from litlens.callbacks.live.network_figures import Histograms as Histograms
    from litlens.callbacks.live.network_figures import ModelGraph as ModelGraph
    from litlens.callbacks.live.samples import PredictionGrid as PredictionGrid
    from litlens.callbacks.live.samples import WrongSamples as WrongSamples
    from litlens.callbacks.live.score_figures import ConfusionMatrix as ConfusionMatrix
    from litlens.callbacks.live.score_figures import LearningCurves as LearningCurves
    from litlens.callbacks.live.score_figures import PerClassMetrics as PerClassMetrics
    from litlens.callbacks.live.score_figures import PrecisionRecallCurves as PrecisionRecallCurves
    from litlens.callbacks.run_metadata import HyperParameters as HyperParameters
    from litlens.callbacks.run_metadata import Provenance as Provenance
    from litlens.callbacks.running_average import RunningAverage as RunningAverage
    from litlens.callbacks.steps import FiniteLoss as FiniteLoss
    from litlens.callbacks.steps import LearningRate as LearningRate
    from litlens.callbacks.steps import RandomState as RandomState

_MODULES = {
    "collect_predictions": ("CollectPredictions",),
    "live.network_figures": ("FeatureMaps", "GradCam", "Histograms", "ModelGraph"),
    "live.samples": ("PredictionGrid", "WrongSamples"),
    "live.score_figures": ("ConfusionMatrix", "LearningCurves", "PerClassMetrics", "PrecisionRecallCurves"),
    "run_metadata": ("HyperParameters", "Provenance"),
    "running_average": ("RunningAverage",),
    "steps": ("FiniteLoss", "LearningRate", "RandomState"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'litlens.callbacks' has no attribute '{name}'")
    return getattr(import_module(f"litlens.callbacks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
