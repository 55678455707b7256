"""The images that the tests of the classifier share."""

import pytest
from small_classifier import Data


@pytest.fixture
def data() -> Data:
    return Data()
