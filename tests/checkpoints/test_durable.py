"""A checkpoint is written completely or not at all; one loads after a kill or a full disk at any moment."""

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from small_classifier import Data, small, trainer

from litlens.checkpoints.durable import DurableCheckpointIO, write_durably
from litlens.checkpoints.last import LastCheckpoint, newest_checkpoint
from litlens.checkpoints.reading import LAST, previous_checkpoint
from litlens.errors import UserError

SIZE = 50_000


def content(step: int) -> dict[str, Any]:
    weights = {"weight": torch.full((SIZE // 4,), float(step))}
    return {
        "litlens": {"format": 2},
        "state_dict": weights,
        "global_step": step,
        "callbacks": {"LastCheckpoint": {"logged": {}}},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 1}}}},
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def last(tmp_path: Path) -> Path:
    return tmp_path / LAST


def test_only_the_previous_checkpoint_is_kept(last: Path) -> None:
    io = DurableCheckpointIO()
    for step in range(3):
        io.save_checkpoint(content(step), last)
        io.save_checkpoint(content(step), last.with_name("best.ckpt"))
    assert names(last.parent) == ["best.ckpt", "last-previous.ckpt", "last.ckpt"]
    assert [io.load_checkpoint(path)["global_step"] for path in (last, previous_checkpoint(last))] == [2, 1]
    assert zipfile.ZipFile(last).testzip() is None


# Runs in a process of its own, whose children are killed before they call a function for the nth time, from 0.
KILLED = """
import itertools, json, os, pathlib, sys
from test_durable import DurableCheckpointIO, LAST, content, names, newest_checkpoint

P = pathlib.Path
stages = [(P, "open", 0), (os, "fsync", 0), (P, "unlink", 0), (os, "link", 0), (P, "replace", 0)]
stages += [(P, "unlink", 1), (os, "fsync", 1), (os, "close", 0)]
root, killed = P(sys.argv[1]), 0
for owner, name, place in stages:
    run = root / f"{owner.__name__}-{name}-{place}"
    io = DurableCheckpointIO()
    for step in (0, 1):
        io.save_checkpoint(content(step), run / LAST)
    child = os.fork()
    if not child:
        calls, function = itertools.count(), getattr(owner, name)
        def dying(*args, **options):
            os._exit(9) if next(calls) == place else None
            return function(*args, **options)
        setattr(owner, name, dying)
        io.save_checkpoint(content(2), run / LAST)
        os._exit(0)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    newest = newest_checkpoint(run)
    DurableCheckpointIO().save_checkpoint(content(3), run / LAST)  # a resumed run's, which has read nothing
    later = newest_checkpoint(run).step
    print(json.dumps([name, place, newest.step, newest.path.name, later, names(run / "checkpoints")]))
print(killed)
"""


def test_after_a_kill_in_any_stage_of_a_save_there_is_a_checkpoint(tmp_path: Path) -> None:
    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    *lines, killed = map(json.loads, done.stdout.splitlines())
    assert killed == len(lines) == 8
    for name, place, step, file, later, files in lines:
        assert step in (1, 2), (name, place)
        assert (file, later) == ("last.ckpt", 3), (name, place)
        assert set(files) <= {"last.ckpt", "last-previous.ckpt"}, (name, place)


@pytest.fixture(params=["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"])
def fault(request: pytest.FixtureRequest) -> OSError:
    number = getattr(errno, request.param)
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("stage", ["open", "write", "fsync", "replace"])
def test_a_fault_is_one_line_and_the_old_file_is_kept(
    stage: str, fault: OSError, last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = DurableCheckpointIO()
    for step in (0, 1):
        io.save_checkpoint(content(step), last)

    class Full:
        """A file that takes half of what is written."""

        def __init__(self, file: Any) -> None:
            self.file, self.taken = file, 0

        def write(self, data: bytes) -> int:
            self.taken += len(data)
            if self.taken > SIZE / 2:
                raise fault
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def failing(*_: Any, **__: Any) -> None:
        raise fault

    message = rf"last\.ckpt cannot be written \({fault.strerror}\): make .* --resume {last.parents[1]}$"
    with monkeypatch.context() as patch:
        if stage == "fsync":
            patch.setattr(os, "fsync", failing)
        elif stage == "write":
            opened = Path.open
            patch.setattr(Path, "open", lambda path, *args: Full(opened(path, *args)))
        else:
            patch.setattr(Path, stage, failing)
        with pytest.raises(UserError, match=message) as caught:
            io.save_checkpoint(content(2), last)
    assert "\n" not in str(caught.value)
    assert newest_checkpoint(last.parents[1]).step == 1
    assert names(last.parent) == ["last-previous.ckpt", "last.ckpt"]
    io.save_checkpoint(content(3), last)
    assert newest_checkpoint(last.parents[1]).step == 3


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond half of a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_on_the_size_of_files_is_one_line(last: Path, small_files: None) -> None:
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written \(File too large\): .* \(ulimit -f\)$"):
        DurableCheckpointIO().save_checkpoint(content(0), last)
    assert names(last.parent) == []


def test_the_temporary_folder_is_not_used(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(last / "missing"))
    DurableCheckpointIO().save_checkpoint(content(0), last)
    assert newest_checkpoint(last.parents[1]).step == 0


def test_without_hard_links_the_previous_checkpoint_is_kept_too(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    io = DurableCheckpointIO()
    for step in range(3):
        io.save_checkpoint(content(step), last)
    assert [io.load_checkpoint(path)["global_step"] for path in (last, previous_checkpoint(last))] == [2, 1]


def test_a_damaged_checkpoint_never_replaces_a_good_one(last: Path) -> None:
    io = DurableCheckpointIO()
    for step in range(2):
        io.save_checkpoint(content(step), last)
    last.write_bytes(last.read_bytes()[:-100])
    found = newest_checkpoint(last.parents[1])
    assert (found.path, found.step) == (previous_checkpoint(last), 0)
    assert f"{last} is damaged" in found.note
    assert "; resuming from last-previous.ckpt, step 0" in found.note
    assert "\n" not in found.note
    io = DurableCheckpointIO()
    io.load_checkpoint(found.path)
    io.save_checkpoint(content(1), last)
    assert [io.load_checkpoint(path)["global_step"] for path in (last, previous_checkpoint(last))] == [1, 0]


def test_two_damaged_checkpoints_are_one_line(last: Path) -> None:
    last.parent.mkdir()
    last.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged .* there is nothing to resume"):
        newest_checkpoint(last.parents[1])
    previous_checkpoint(last).write_bytes(b"x")
    with pytest.raises(UserError, match=r"last\.ckpt is .*, and .*-previous\.ckpt is .* start a new run") as caught:
        newest_checkpoint(last.parents[1])
    assert "\n" not in str(caught.value)


def test_a_plugin_that_a_trainer_was_given_is_kept(tmp_path: Path) -> None:
    run = trainer(callbacks=[LastCheckpoint(tmp_path)], enable_checkpointing=True)
    write_durably(run)
    run.fit(small(), Data())
    assert names(tmp_path / LAST.parent) == ["last-previous.ckpt", "last.ckpt"]
    assert [newest_checkpoint(tmp_path).step, torch.load(previous_checkpoint(tmp_path / LAST))["global_step"]] == [3, 0]
    run = trainer(plugins=[AsyncCheckpointIO()])
    write_durably(run)
    assert type(run.strategy.checkpoint_io) is AsyncCheckpointIO
