"""The report: its numbers, its size, what it does with hostile names, and that equal runs give equal pages."""

import os
import subprocess
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

import litlens
from litlens.evaluation.calibration import calibration_error
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import RunFacts
from litlens.explain.map_layers import NoMapError

HOSTILE = '<script>alert("1")</script>'


def test_the_numbers_at_the_top(made_up, report, page) -> None:
    some = made_up(200, 4, strength=2.5)
    read = page(report(some))
    right = int((some.logits.argmax(axis=1) == some.labels).sum())
    # Wilson 1927, by hand.
    z, share = 1.959964, right / 200
    middle, half = share + z**2 / 400, z * np.sqrt(share * (1 - share) / 200 + z**2 / (4 * 200**2))
    low, high = (middle - half) / (1 + z**2 / 200), (middle + half) / (1 + z**2 / 200)
    assert f"{100 * share:.2f} %" in read.text
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in read.text
    assert f"{200 - right} misclassified" in read.text
    assert f"{90 - 100 * share:+.2f} points; the checkpoint was selected on val" in read.text


def test_the_table_of_the_classes(made_up, report, page) -> None:
    some = made_up(300, 3, strength=1.0)
    rows = {row[0]: row[1:] for row in page(report(some)).rows}
    figures = precision_recall_fscore_support(some.labels, some.predicted)
    for k, name in enumerate(some.class_names):
        precision, recall, _, f1, _, labeled, predicted = rows[name]
        assert [precision, recall, f1] == [f"{100 * column[k]:.1f} %" for column in figures[:3]]
        assert [int(labeled), int(predicted)] == [(some.labels == k).sum(), (some.predicted == k).sum()]


def test_mistakes_have_maps_and_samples_have_none(made_up, report, page) -> None:
    some = made_up(300, 3, strength=1.0)
    read = page(report(some))
    large, cards = read.all("figure", **{"class": "large"}), read.all("figure", **{"class": "card"})
    losses = [float(card["data-loss"]) for card in large]
    assert len(large) == 24
    assert losses == sorted(losses, reverse=True)
    assert all(card["data-label"] != card["data-predicted"] for card in large)
    assert sum((image["alt"] or "").startswith("Grad-CAM of") for image in read.all("img")) == 24
    assert {card["data-name"] for card in cards} == set(some.names)  # as many as fit


def test_a_network_without_maps_is_reported_in_one_line(made_up, report, page) -> None:
    def refuse(indices: object) -> list[np.ndarray]:
        raise NoMapError("MLP has no layer with a map")

    read = page(report(made_up(100, 3, strength=1.0), overlays=refuse))
    assert "No Grad-CAM: MLP has no layer with a map." in read.text
    assert not any("Grad-CAM" in (image["alt"] or "") for image in read.all("img"))
    assert read.all("figure", **{"class": "large"})


def test_names_are_text(report, page) -> None:
    names = [f'"><img src=x onerror=alert({k})>' for k in range(40)]
    logits = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    some = Predictions(logits, np.arange(40) % 2, names, [HOSTILE, "$x$ & '\"'"])
    read = page(report(some))
    assert len(read.scripts) == len(read.all("script")) == 1
    assert "alert" not in read.scripts[0]
    assert {row[0] for row in read.rows} >= {HOSTILE, "$x$ & '\"'"}
    assert {card["data-name"] for card in read.all("figure")} == set(names)
    for _, attributes in read.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/"))


def test_it_is_read_without_a_script(made_up, report, page) -> None:
    read = page(report(made_up(100, 3, strength=1.0)))
    (form,) = read.all("form")
    assert "hidden" in form
    assert len(read.all("figure", **{"class": "card"})) >= 100


@pytest.mark.parametrize(
    ("size", "classes", "strength"), [(60, 2, 1.0), (60, 2, 30.0), (60, 62, 2.0), (300, 10, 30.0), (600, 101, 3.0)]
)
def test_any_number_of_classes_and_no_mistake_at_all(made_up, report, page, size, classes, strength) -> None:
    some = made_up(size, classes, strength=strength)
    read = page(report(some))
    assert {row[0] for row in read.rows} >= set(some.class_names)
    scores = [row[4].removesuffix(" %") for row in read.rows if row[0] in some.class_names and len(row) == 8]
    if classes > 100:  # a long table begins with the worst
        assert scores == sorted(scores, key=lambda score: float(score) if score != "–" else 0)
    if strength == 30:
        assert "No test image is misclassified." in read.text
        assert len(read.all("figure", **{"class": "large"})) == 6  # the least confident, with their maps


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("broken", [[7], range(120)], ids=["one", "all"])
def test_logits_that_are_not_finite_are_counted_and_left_out_of_what_needs_probabilities(
    made_up, report, page, value: float, broken: Sequence[int]
) -> None:
    some = made_up(120, 3, strength=2.0)
    logits = some.logits.copy()
    logits[list(broken), 1] = value
    read = page(report(Predictions(logits, some.labels, some.names, some.class_names)))
    assert f"{len(broken)} of 120 images have NaN or infinite logits." in read.text
    kept = np.setdiff1d(np.arange(120), broken)
    expected = "on average"  # without any finite logit there is no error to state
    if len(kept):
        rest = Predictions(logits[kept], some.labels[kept], [some.names[k] for k in kept], some.class_names)
        expected = f"The expected calibration error is {100 * calibration_error(rest):.2f} %"
    assert expected in read.text
    assert {card["data-name"] for card in read.all("figure", **{"class": "card"})} == set(some.names)
    assert "nan %" not in read.text


def test_a_report_needs_nothing_but_predictions(made_up, page, tmp_path) -> None:
    some = made_up(80, 3, strength=1.0)
    path = litlens.write_report(some, tmp_path / "new" / "page.html")
    read = page(path.read_text(encoding="utf-8"))
    assert f"{100 * some.correct.mean():.2f} %" in read.text
    assert f"80 test images, 3 classes, {(~some.correct).sum()} misclassified" in read.text
    assert {card["data-name"] for card in read.all("figure", **{"class": "card"})} == set(some.names)
    assert all((image["src"] or "").startswith("data:image/svg") for image in read.all("img"))  # figures alone
    with pytest.raises(ValueError, match="at least one prediction"):
        litlens.write_report(Predictions(np.zeros((0, 2)), [], [], ["a", "b"]), tmp_path / "none.html")


def test_without_metrics_the_rest_stays(made_up, report, page) -> None:
    read = page(report(made_up(60, 2, strength=1.0), run=RunFacts("file.ckpt", None, [], {}, "", {})))
    assert "Learning curves" not in read.text
    assert "Validation accuracy" not in read.text


def test_ten_thousand_images_stay_small(made_up, report, noise) -> None:
    """Noise at 224×224 is the most that a JPEG can cost; only the images that are shown are fetched."""
    fetched = []

    def image(index: int) -> np.ndarray:
        fetched.append(index)
        return noise(index, side=224, channels=3)

    text = report(made_up(10_000, 62, strength=3.0), image=image, overlays=lambda some: [image(k) for k in some])
    assert len(text.encode()) < 5_000_000
    assert len(fetched) <= 450


def test_equal_arguments_give_equal_pages_in_any_process() -> None:
    code = """
import hashlib, numpy as np
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import RunFacts, render_report
g = np.random.default_rng(0)
logits = g.normal(size=(90, 3)).astype(np.float32)
some = Predictions(logits, np.arange(90) % 3, [str(k) for k in range(90)], list("abc"))
draw = lambda k: np.random.default_rng(k).integers(256, size=(70, 70, 3), dtype=np.uint8)
run = RunFacts("a/b", 0.5, [{"epoch": 0, "loss/val": 1.0}], {"a": "b"}, "c", {"d": "e"})
page = render_report(some, run=run, image=draw, overlays=lambda rows: [draw(k) for k in rows])
print(hashlib.sha256(page.encode()).hexdigest())
"""
    digests: set[str] = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_templates_are_installed_with_the_package() -> None:
    root = Path(__file__).resolve().parents[2]
    setup = ConfigParser()
    setup.read(root / "setup.cfg")
    package = root / "src" / "litlens" / "evaluation"
    patterns = setup["options.package_data"]["litlens.evaluation"].replace(",", " ").split()
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path for pattern in patterns for path in package.glob(pattern)} == others
