"""Starts a front process next to rank 0 and sees to its end."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from mpispec.front.link import Link
from mpispec.front.local_socket import connect
from mpispec.front.messages import Door, Open, Serve, Served

_LONGEST_END_S = 10.0
"""How long it may take to end after its last word (law 7)."""


class Joined:
    """A front process that was started by itself and goes on without this job."""

    def __init__(self, path: Path, served: Served) -> None:
        """Connect to the one at `path`; raises ServeError."""
        self.link = connect(path)
        self.link.send(Serve(served))

    def end(self) -> None:
        """Leave it."""
        self.link.close()


class FrontProcess:
    """A front process of this rank's own, with its standard input and output."""

    def __init__(self, door: Door, served: Served, listener: socket.socket) -> None:
        """Start it; it takes over `listener` and gets ready while the model is loaded."""
        ours, theirs = socket.socketpair()
        descriptors = [theirs.fileno(), listener.fileno()]
        command = [sys.executable, "-m", "mpispec.front", *map(str, descriptors)]
        self._process = subprocess.Popen(command, pass_fds=descriptors)
        theirs.close()
        listener.close()
        self.link = Link(ours)
        self.link.send(Open(door))
        self.link.send(Serve(served))

    def end(self) -> None:
        """Wait for its end."""
        self.link.close()
        try:
            self._process.wait(_LONGEST_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
