"""A Lightning project of its own that uses litlens."""

from glyphs.data import ShapesDataModule
from glyphs.module import GlyphClassifier

__all__ = ["GlyphClassifier", "ShapesDataModule"]
