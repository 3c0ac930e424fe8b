"""Where a front process and jobs of the same host and user meet."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mpispec.front.link import Link
from mpispec.serve.http.address import ServeError

_BACKLOG = 4


def listen(path: Path) -> socket.socket:
    """Return a socket at `path` that this user's jobs connect to. Raises ServeError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _is_served(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(f"No socket can be made at {path} ({error}); name another place with --socket.") from None
    return listener


def connect(path: Path) -> Link:
    """Return the link to the front process that listens at `path`. Raises ServeError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise ServeError(
            f"No front process is at {path} ({error.strerror}); start one there with mpispec front --socket {path}."
        ) from None
    return Link(connection)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
