"""From predictions to metrics, figures and the report, each a function of `Predictions` alone.

Nothing here knows a trainer, a data module or a config; `callbacks` decide when to draw and where.
"""

from litlens.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
