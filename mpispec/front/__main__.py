"""`python -m mpispec.front LINK LISTENER`: the front process that rank 0 starts; both are descriptors of sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback

from mpispec.front.link import Link
from mpispec.front.messages import Hello, Open, Serve
from mpispec.front.program import Front, Gone, expect, make_service
from mpispec.front.remote import RemoteEngine
from mpispec.runtime.process import FAILURE, SIGNALS

_NICENESS = 5
"""Where cores are scarce a step goes first: a text that waits for a millisecond is not noticed, a pipeline is."""


def main(link: Link, listener: socket.socket) -> None:
    """Serve until rank 0 or the person at the prompt has had enough; a job that never begins ends it too."""
    messages = link.messages()
    engine = RemoteEngine()
    with contextlib.suppress(Gone):
        door = expect(messages, Open).door
        service = make_service(engine, expect(messages, Serve).served)
        front = Front(door, service, engine, listener)
        front.run(link, expect(messages, Hello))


def _end_with_thread(args: threading.ExceptHookArgs) -> None:
    """End the process with any of its threads; rank 0 notices that it is gone."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        traceback.print_exception(args.exc_value)
        os._exit(FAILURE)


def _step_aside() -> None:
    """Leave the processor that mpirun may have bound rank 0 to, and let its steps go first."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    os.nice(_NICENESS)


if __name__ == "__main__":
    # Ctrl-C and the request to end go to rank 0, which knows what follows from them and says so by the link.
    for number in (signal.SIGINT, signal.SIGQUIT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    threading.excepthook = _end_with_thread
    _step_aside()
    connection, door = (socket.socket(fileno=int(word)) for word in sys.argv[1:])
    main(Link(connection), door)
