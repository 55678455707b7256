"""Synthetic predictions, a stopwatch, pages of synthetic predictions and a reader of pages, for the evaluation."""

import time
import timeit
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import RunFacts, render_report

HISTORY = [{"epoch": k, "loss/train": 1 / (k + 1), "loss/val": 1.1 / (k + 1), "accuracy/val": k / 3} for k in range(3)]


def _made_up(size: int, classes: int, *, strength: float, seed: int = 0) -> Predictions:
    """Gaussian logits, the label's raised by `strength`; the labels are the same for every seed."""
    labels = np.random.default_rng(99).integers(classes, size=size)
    logits = np.random.default_rng(seed).normal(size=(size, classes)).astype(np.float32)
    logits[np.arange(size), labels] += strength
    names = [f"test/{k:05d}" for k in range(size)]
    return Predictions(logits, labels, names, [f"class {k}" for k in range(classes)])


@pytest.fixture
def made_up() -> Callable[..., Predictions]:
    """Gives `made_up(size, classes, strength=, seed=)`."""
    return _made_up


def _processor_seconds(call: Callable[[], object]) -> float:
    """Of this process only, and the least of three calls, since other processes on the same core slow it."""
    return min(timeit.repeat(call, timer=time.process_time, number=1, repeat=3))


@pytest.fixture
def processor_seconds() -> Callable[[Callable[[], object]], float]:
    """Gives `processor_seconds(call)`."""
    return _processor_seconds


class Page(HTMLParser):
    """Elements with their attributes, scripts, table rows as lists of words, and all visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data
            if self._inside in ("td", "th"):
                self.rows[-1][-1] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(value in (attributes.get(key) or "").split(" ") for key, value in wanted.items())
        ]


def _noise(index: int, side: int = 12, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(index).integers(256, size=(side, side, channels), dtype=np.uint8)


def _report(predictions: Predictions, **changed: Any) -> str:
    run = RunFacts("name/version", 0.9, HISTORY, {"network": "CNN"}, "seed: 1\n", {"python": "3.10"})
    usual = {"run": run, "image": _noise, "overlays": lambda indices: [_noise(k, channels=3) for k in indices]}
    return render_report(predictions, **{**usual, **changed})


@pytest.fixture
def page() -> Callable[[str], Page]:
    """Reads a page."""
    return Page


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Gives `noise(index, side=, channels=)`, an image of noise that no encoder makes small."""
    return _noise


@pytest.fixture
def report() -> Callable[..., str]:
    """Gives `report(predictions, **changed)`, a page with made-up images."""
    return _report
