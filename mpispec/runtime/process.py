"""From process to rank and back: one clear sentence and a non-zero exit code whatever goes wrong, on all ranks."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from mpispec.compute.base import ComputeError
from mpispec.core.events import ProtocolError
from mpispec.runtime.group import Group, GroupTransport, JobError
from mpispec.transport.base import SharedError, TransportError
from mpispec.transport.environment import hostname, read_launch, say_all
from mpispec.transport.loopback import LoopbackTransport
from mpispec.wire.fields import LocalProtocolError, PeerProtocolError

USAGE = 2
"""Exit code where the user can mend it."""
FAILURE = 1
"""Exit code where the job broke."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
UNREAD = 141
"""Exit code where nobody reads the output any more, as of a program that SIGPIPE ends."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Open MPI's mpirun answers SIGTERM by killing its ranks within a second, and passes SIGUSR1 on (5.0.11); Hydra passes
both on and waits (MPICH 5.0.2)."""
_MARGIN_S = 20
"""How much longer than its grace time a server may take to end."""
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_EXPECTED = (ComputeError, ProtocolError, TransportError, LocalProtocolError, PeerProtocolError)
"""Failures whose text says all there is to say; others get a traceback, because they are bugs."""


@contextmanager
def joined() -> Iterator[Group]:
    """Join the job that mpirun started, or be a job of one rank without MPI.

    A `JobError` inside is reported once, by rank 0, and every rank exits with `USAGE`. Anything else ends all ranks at
    once, so that no rank waits for one that is gone.
    """
    group = Group(_connect())
    _install_hooks(group)
    try:
        yield group
    except JobError as error:
        if group.rank == 0:
            complain(str(error))
        group.close()
        sys.exit(USAGE)
    except SystemExit:
        group.close()
        raise
    except BaseException as error:
        _end_all(group, error)
    group.close()


def complain(sentence: str) -> None:
    """Tell the user what is wrong."""
    sys.stderr.write(f"mpispec: {sentence}\n")  # at once, or what another rank says could come between
    sys.stderr.flush()


def knows_end_of_input() -> bool:
    """Tell whether rank 0 notices the end of standard input; under Open MPI it does not (measured with 5.0.11)."""
    return read_launch().family != "openmpi"


_STREAM_BUFFERING = "OMPI_MCA_ompi_stream_buffering"
"""Set for the ranks where mpirun was given the option."""


def advise() -> None:
    """Warn of a launcher that keeps words back.

    Open MPI's mpirun passes the ranks' output on a line at a time by default (measured with 5.0.11).
    """
    if read_launch().family == "openmpi" and os.environ.get(_STREAM_BUFFERING) != "0":
        complain("Text appears a line at a time; start with mpirun --stream-buffering 0 to see each word as it comes.")


_SPENT = b"""
mpispec: mpirun ends the program at the next Ctrl-C; Ctrl-\\ stops an answer as often as you like.
"""


class Interrupts:
    """Ctrl-C on rank 0: ends the job until a handler is set.

    Hydra, the mpirun of MPICH, passes the first SIGINT on to the ranks and kills them at the second, however much
    later it comes (measured with 5.0.2), but it passes on every SIGQUIT; so Ctrl-\\ does the same as Ctrl-C there.
    """

    def __init__(self, goes_on: bool = False) -> None:
        """Take the signals; `goes_on` if there is something left to interrupt after the first time."""
        self._handler: Callable[[], None] | None = None
        self._is_hydra = read_launch().family == "hydra"
        self._has_notice = goes_on and self._is_hydra
        signal.signal(signal.SIGINT, self._on_signal)
        if self._is_hydra:
            signal.signal(signal.SIGQUIT, self._on_signal)

    def call(self, handler: Callable[[], None]) -> None:
        """Have Ctrl-C call `handler` on the main thread; may be called from any thread."""
        self._handler = handler

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._handler is None:
            raise KeyboardInterrupt
        if self._has_notice and number == signal.SIGINT:
            self._has_notice = False
            os.write(2, _SPENT)  # not by sys.stderr, which the interrupted code may be writing to
        self._handler()


class AskedToEnd:
    """The signals that ask rank 0 to end; until a handler is set, they end the job at once."""

    def __init__(self) -> None:
        """Take the signals; on the main thread."""
        self._handler: Callable[[], None] | None = None
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def call(self, handler: Callable[[], None]) -> None:
        """Have the first signal call `handler` on the main thread, and further ones do nothing; from any thread."""
        self._handler = handler

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._handler is None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # One signal may come twice: to the process group, and passed on by mpirun.
        handler, self._handler = self._handler, _do_nothing
        handler()


def leave_ending_to_rank_0(grace_s: float) -> None:
    """Have this rank live on when it is asked to end, for as long as rank 0 may need to end the job in order.

    mpirun asks all ranks at once. Where only this rank was asked it ends after that time, and with it the job (law 7).
    """

    def wait_for_rank_0(_number: int, _frame: FrameType | None) -> None:
        if signal.getitimer(signal.ITIMER_REAL)[0] == 0.0:
            signal.setitimer(signal.ITIMER_REAL, grace_s + _MARGIN_S)  # SIGALRM ends a process

    for number in SIGNALS:
        signal.signal(number, wait_for_rank_0)


def _do_nothing() -> None:
    pass


def _connect() -> GroupTransport:
    launch = read_launch()
    if launch.size == 1:
        return LoopbackTransport()
    may_complain = launch.local_rank == 0  # one a host: MPI may be missing on some of them
    try:
        from mpispec.transport.mpi import connect  # noqa: PLC0415  a job of one rank needs no MPI

        may_complain = True
        return connect()
    except SharedError as error:
        if launch.rank == 0:
            complain(str(error))
    except TransportError as error:
        if may_complain:
            complain(f"Rank {launch.rank} on {hostname()}: {error}")
    sys.exit(USAGE)


def _install_hooks(group: Group) -> None:
    """Let exceptions of any thread end the job; leave Ctrl-C to rank 0, where the person is."""

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            _end_all(group, args.exc_value)

    threading.excepthook = on_thread_error
    if group.rank != 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)


def _end_all(group: Group, error: BaseException) -> NoReturn:
    if isinstance(error, KeyboardInterrupt):
        _abort(group, INTERRUPTED)
    if isinstance(error, BrokenPipeError) and not _is_read(_STANDARD_OUTPUT):
        _send_nowhere(_STANDARD_OUTPUT)
        _abort(group, UNREAD)
    cause = str(error)
    if not isinstance(error, _EXPECTED):
        traceback.print_exception(error)
        cause = f"{type(error).__name__}: {cause}"
    complain(f"Rank {group.rank} on {hostname()} failed, so the job ends: {cause}")
    _abort(group, FAILURE)


def _abort(group: Group, code: int) -> NoReturn:
    """End all ranks; all is said by now, so what MPI_Abort adds goes nowhere."""
    say_all()
    _send_nowhere(_STANDARD_ERROR)
    group.abort(code)


def _is_read(descriptor: int) -> bool:
    """Tell whether what is written may still be read; a pipe without a reader is in error."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _send_nowhere(descriptor: int) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
