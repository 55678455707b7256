"""litlens: image classification with PyTorch Lightning, trained, tested and explained from one config.

Nothing heavy is imported until a name of `__init__.pyi` is asked for.
"""

from litlens.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
