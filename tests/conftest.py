"""Fixtures: real data and weights where they are at hand, small stand-ins, and a cache of the tests' own."""

import os
from pathlib import Path

import pytest
from stand_ins import write_stand_ins

from litlens.cli.execution import IGNORED_WARNINGS

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    for message, category in IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category.__name__}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: LITLENS_TEST_DATA, or ../shared/data beside the checkout."""
    return _at_hand("LITLENS_TEST_DATA", _SHARED / "data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of real ImageNet weights: LITLENS_TEST_WEIGHTS, or ../shared/weights beside the checkout."""
    return _at_hand("LITLENS_TEST_WEIGHTS", _SHARED / "weights")


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small random `data` and `weights`, and a `torch` cache in place of downloads."""
    return write_stand_ins(tmp_path_factory.mktemp("stand_ins"))


def _at_hand(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to where it is")
    return folder
