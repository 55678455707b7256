"""SIGINT and SIGTERM: every process of a job ends soon, one that trains after the step in flight.

A signal may reach one process of a job or all of them. The one that gets it reports it to the others through the store
at which they met, and so does one that fails. A thread of each process watches, since Python calls a signal's handler
only between two instructions of the main thread, which may be waiting for another process for minutes.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from litlens.errors import quoted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 6.0  # seconds in which a process that ends cleans up
_PAUSE = 0.2  # seconds between two looks at the store
_REPEATED = 2.0  # seconds in which the same signal comes twice: from the terminal and from torchrun, say
# In the store:
_ENDS = "litlens/ends"  # the number of the signal, or 0 where a process failed
_SPEAKER = "litlens/speaker"  # the process that says why


class Interrupted(BaseException):
    """A signal ends the command. Not an Exception, so that nothing that handles errors handles it."""


class _Signals:
    """The state of the process: one, as its signals are."""

    def __init__(self) -> None:
        self._active = False
        self._reset()

    def _reset(self) -> None:
        self.run: Path | None = None  # the folder that --resume takes
        self.before_exit: Callable[[], None] = lambda: None  # called where the process is ended by force
        self.received = 0  # the number of the signal
        self._received_at = 0.0
        self._held = self._leaving = self._said = False
        self._first, self._parent = True, 0
        self._launcher: Any = None
        self._store: Any = None
        self._other_failed = False

    # In the main thread

    @contextmanager
    def handled(self, *, first: bool, parent: int) -> Iterator[None]:
        """Handle both signals within the block.

        Args:
            first: Whether this is the process that prints.
            parent: The process of this command that launched this one; 0 for others.
        """
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            yield
            return
        self._reset()
        self._first, self._parent, self._active = first, parent, True
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            # Where other processes have to end, too, what Python does at exit may wait for them.
            if self._store is None or not self._leaving:
                self._active = False
                os.close(writing)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self._received_at and now - self._received_at > _REPEATED
        self.received, self._received_at = self.received or number, self._received_at or now
        if not self._leaving and (again or not self._held):
            self.leave()

    def leave(self) -> None:
        """End the command."""
        self._leaving, self._held = True, False
        raise Interrupted(self.received)

    def hold(self) -> None:
        """Let the training go on after a signal, until it asks for one."""
        self._held = self._active

    def release(self) -> None:
        """End the command at once where a signal comes from now on, or has come."""
        self._held = False
        if self.received and not self._leaving:
            self.leave()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a signal back within the block, which writes something."""
        before = self._held
        self.hold()
        yield
        if not before:
            self.release()

    def asked(self, trainer: Any) -> bool:
        """Whether a process of the training has got a signal; all have to call it, and hear the same."""
        if self._active and trainer.world_size > 1:
            import torch

            number = torch.tensor(self.received, device=trainer.strategy.root_device)
            self.received = int(trainer.strategy.reduce(number, reduce_op="max"))
        return self.received != 0

    def take_over(self, trainer: Any) -> None:
        """Keep a trainer from handling SIGTERM.

        Its handler starts a collective operation in the middle of whatever the process does, and the other processes
        take no part in it; where rank 0 does not get the signal, it is lost
        (https://github.com/Lightning-AI/pytorch-lightning/pull/20825, and issue 20806, open). One method registers it
        and the handler of SIGUSR1, by which SLURM puts a job into the queue again; no option leaves it out.
        """
        connector = trainer._signal_connector
        register_all = connector.register_signal_handlers

        def register() -> None:
            register_all()
            if self._active:
                signal.signal(signal.SIGTERM, self._handle)

        connector.register_signal_handlers = register

    def launches(self, launcher: Any) -> None:
        """Remember Lightning's launcher, whose `procs` end with this process."""
        self._launcher = launcher

    def connect(self) -> None:
        """Watch the other processes of the job, which have met."""
        if self._active and self._store is None:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            self._store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)

    def is_first_failure(self) -> bool:
        """Report to the others that this process has failed; whether it is the one that says why."""
        self._leaving = True
        if self._store is None:
            return self._first or self._parent != 0
        if self._other_failed:
            return False
        mine = uuid.uuid4().hex
        try:
            first: bytes = self._store.compare_set(_SPEAKER, "", mine)
            self._report(0)
        except RuntimeError:  # the first process has ended, and has said why
            return self._first
        return first.decode() == mine

    def status(self, code: int) -> int:
        """The exit status of this process.

        Where one that it launched ends with another status than 0, Lightning kills the first one, which is still
        cleaning up (https://github.com/Lightning-AI/pytorch-lightning/pull/18218).
        """
        return 0 if self._parent and self._store is not None else code

    def end_launched(self) -> None:
        """End the processes that this one launched: those that have met the others do so themselves."""
        launched = getattr(self._launcher, "procs", [])
        if self._store is not None:
            time.sleep(2 * _PAUSE)  # the store may end with this process
        else:
            for process in launched:
                process.terminate()
        end = time.monotonic() + _PATIENCE / 2
        for process in launched:
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # In the thread

    def _watch(self, reading: int) -> None:
        ends, reported = float("inf"), False
        while True:
            if select.select([reading], [], [], _PAUSE)[0]:
                numbers = os.read(reading, 64)
                if not numbers:  # the end of `handled`
                    os.close(reading)
                    return
                self.received = self.received or next((number for number in numbers if number in _SIGNALS), 0)
            if self.received and not reported:
                reported = True
                if self._store is not None:
                    self._report(self.received)
                elif self._parent:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._parent, self.received)
            now = time.monotonic()
            if self.received and not self._held:
                ends = min(ends, now + _PATIENCE)
            elif self._store is not None and not (self._other_failed or self._leaving) and not self._listen():
                self._other_failed, ends = True, now + _PATIENCE
            if now > ends:
                self._end_by_force()

    def _report(self, number: int) -> None:
        with contextlib.suppress(RuntimeError):  # the first process has ended
            self._store.compare_set(_ENDS, "", str(number))

    def _listen(self) -> bool:
        """Look for a signal of another process; False where one failed or the first one has ended."""
        try:
            if not self._store.check([_ENDS]):
                return True
            number = int(self._store.get(_ENDS))
        except RuntimeError:
            return False
        if number:
            os.kill(os.getpid(), number)
        return number != 0

    def _end_by_force(self) -> None:
        """End a process that did not end by itself: it waits for another one, say."""
        for process in getattr(self._launcher, "procs", []):
            process.kill()
        with contextlib.suppress(Exception):
            self.before_exit()
        if self.received and self._first and not self._said:
            sys.stderr.write(f"{self.line()}\n")
        self.exit()

    def exit(self) -> NoReturn:
        """End the process at once, and those that load its data."""
        for process in multiprocessing.active_children():
            process.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status(128 + self.received if self.received else 1))

    def line(self) -> str:
        """What is printed at the end: how to go on."""
        self._said = True
        return f"stopped by {signal.Signals(self.received).name}{self.remedy()}"

    def remedy(self) -> str:
        """The end of a line: the command that goes on, once there is a checkpoint."""
        if self.run is None or not any(self.run.rglob("last.ckpt")):
            return ""
        return f"; resume with: python train.py --resume {quoted(self.run)}"


signals = _Signals()


def _after_fork() -> None:
    """Let the processes that load data end by their parent alone: Ctrl-C in a terminal reaches them, too."""
    if signals._active:
        signals._active = False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
