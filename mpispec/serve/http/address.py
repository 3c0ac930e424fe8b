"""Where the server listens and who needs a key for it; decided before a model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpispec.serve.errors import ServeError
from mpispec.serve.http.tls import Tls

__all__ = ["Access", "ServeError", "bind", "check_access", "find_access", "is_loopback"]

KEY_VARIABLE = "MPISPEC_API_KEY"
_BACKLOG = 128
MOST_OPEN = 65
"""Answers that may be under way or wait, where nobody says it."""


def is_loopback(host: str) -> bool:
    """Return whether `host` is a name or address that only this machine reaches."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server, and how much of it."""

    keys: frozenset[str] = frozenset()
    """Any of them opens it; without one only this machine may use it."""
    origins: tuple[str, ...] = ()
    """Web pages that may use it from a browser, such as http://localhost:3000; `*` for all."""
    hosts: tuple[str, ...] = ()
    """Names that it may be called by, besides those of this machine; `*` in them stands for anything."""
    tls: Tls | None = None
    most_open: int = MOST_OPEN
    """Answers that may be under way or wait; more are refused."""
    most_open_of_key: int | None = None
    """Of these, those of one key."""


def find_access(
    host: str, api_key: str | None, key_file: Path | None, origins: Sequence[str], hosts: Sequence[str] = ()
) -> Access:
    """Return who may use the server: who knows `api_key`, else the environment's, or a line of `key_file`.

    Raises ServeError if other machines, or all web pages, can reach `host` and there is no key.
    """
    key = api_key or os.environ.get(KEY_VARIABLE) or None
    keys = frozenset([*([key] if key else []), *(_read_keys(key_file) if key_file else [])])
    names = tuple(name.lower().rstrip(".") for name in hosts)
    access = Access(keys, tuple(origin.rstrip("/") for origin in origins), names)
    check_access(host, access)
    return access


def check_access(host: str, access: Access) -> None:
    """Raise ServeError where strangers can reach `host` and there is no key."""
    if access.keys:
        return
    if not is_loopback(host):
        raise ServeError(
            f"{host} can be reached from other machines, so the server needs a key: give --api-key or set "
            f"{KEY_VARIABLE}, or listen on 127.0.0.1."
        )
    if "*" in access.origins:
        raise ServeError("--cors-origin '*' lets every web page in, so the server needs a key: give --api-key.")
    if "*" in access.hosts:
        raise ServeError("--allow-host '*' lets web pages in by any name, so the server needs a key: give --api-key.")


def _read_keys(file: Path) -> list[str]:
    """Return the keys of a file, one a line; empty lines and those that begin with # are none."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(
            f"The keys in {file} cannot be read ({error}); name a text file of keys, one a line."
        ) from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ServeError(f"{file} holds no key; write one a line.")
    return keys


def bind(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; port 0 takes a free one.

    It listens at once, because two programs may bind one port as long as neither listens. Clients that come before
    the server runs wait in the backlog. Raises ServeError.
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"There is no port {port}; choose one from 0 to 65535 with --port.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServeError(f"The address {host} cannot be found ({error}); choose another with --host.") from None
    # `localhost` is often both; clients that use 127.0.0.1 must reach it.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(_explain(error, host, port)) from None
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; end the program that holds it or choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has; choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; choose another with --host."
    return f"Cannot listen on {host}, port {port} ({error.strerror}); choose others with --host and --port."
