"""The messages of other libraries that are matched, since nothing else tells a user's mistake from a bug.

Each has a test that fails when its text changes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from litlens.errors import UserError, nearest

# Of a metric that is watched and never logged: ModelCheckpoint quotes its name, EarlyStopping puts it between
# backticks, and ReduceLROnPlateau leaves it bare. What a classifier logs is known only when it has.
_MISSING_METRIC = re.compile(r"(?:ModelCheckpoint\(monitor='|conditioned on metric `?)([^'` ]+)")


@contextmanager
def upstream_mistakes(trainer: Trainer) -> Iterator[None]:
    """Raise UserError where Lightning misses a metric that a callback or a schedule watches."""
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        missing = _MISSING_METRIC.search(str(error))
        if missing is None:
            raise
        hint = nearest(missing[1], sorted(trainer.callback_metrics))
        raise UserError(f"monitor: {missing[1]} is never logged{hint}") from error
