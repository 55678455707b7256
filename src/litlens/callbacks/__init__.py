"""Callbacks for training a classifier: one concern each, independent of the others and of their order.

A callback decides when to draw, `evaluation` and `explain` draw, and the trainer's loggers decide where it is shown.
"""

from litlens.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
