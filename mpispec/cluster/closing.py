"""Being asked to end: a signal to rank 0 ends a server in order, and no rank waits for good."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Open MPI's mpirun answers SIGTERM by killing its ranks within a second, and passes SIGUSR1 on (5.0.11); Hydra passes
both on and waits (MPICH 5.0.2)."""
_MARGIN_S = 20
"""How much longer than its grace time a server may take to end."""


class AskedToEnd:
    """The signals that ask rank 0 to end; until somebody wants to be told, they end the job at once."""

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
