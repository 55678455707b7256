"""From predictions to metrics, figures and the report, each a function of `Predictions` alone.

Nothing here knows a trainer, a data module or a config; `callbacks` decide when to draw and where.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litlens.evaluation.calibration import calibration_error as calibration_error
    from litlens.evaluation.calibration import temperature as temperature
    from litlens.evaluation.figures import confusion_matrix_figure as confusion_matrix_figure
    from litlens.evaluation.figures import learning_curves_figure as learning_curves_figure
    from litlens.evaluation.figures import precision_recall_figure as precision_recall_figure
    from litlens.evaluation.figures import reliability_figure as reliability_figure
    from litlens.evaluation.predictions import Predictions as Predictions
    from litlens.evaluation.report_page import RunFacts as RunFacts
    from litlens.evaluation.report_page import write_report as write_report
    from litlens.evaluation.run_comparison import compare as compare
    from litlens.evaluation.scores import accuracy as accuracy
    from litlens.evaluation.scores import bootstrap_intervals as bootstrap_intervals
    from litlens.evaluation.scores import class_table as class_table

_MODULES = {
    "calibration": ("calibration_error", "temperature"),
    "figures": ("confusion_matrix_figure", "learning_curves_figure", "precision_recall_figure", "reliability_figure"),
    "predictions": ("Predictions",),
    "report_page": ("RunFacts", "write_report"),
    "run_comparison": ("compare",),
    "scores": ("accuracy", "bootstrap_intervals", "class_table"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'litlens.evaluation' has no attribute '{name}'")
    return getattr(import_module(f"litlens.evaluation.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
