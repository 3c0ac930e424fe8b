#!/usr/bin/env python3
"""What an emulated host finds out about itself and its neighbour: run on the hosts by `emulated-cluster self-test`.

    probe.py bursts MS...          how large a share of a core bursts of MS milliseconds of work get
    probe.py serve                 answer a neighbour until standard input ends; prints the port
    probe.py ask ADDRESS PORT      round trip and rate to a serving neighbour

Each prints JSON. Standard library only, because it runs before there is an environment.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time

_BURSTS = 15
"""At least; the shorter a burst, the more depends on where in the quota's period it begins, so short ones get more."""
_BURSTS_S = 1.5
"""How long at least each length of burst is measured."""
_REST_S = 0.03
"""Between bursts; a stage of a pipeline rests too."""
_ROUND_TRIPS = 100
_STREAM_BYTES = 8 << 20
_PIECE = 1 << 16
_DEADLINE_S = 30.0


def bursts(milliseconds: list[float]) -> None:
    """Print, for each length of burst, the median of CPU time over time."""
    found = {}
    for length in milliseconds:
        shares: list[float] = []
        enough = time.perf_counter() + _BURSTS_S
        while len(shares) < _BURSTS or time.perf_counter() < enough:
            time.sleep(_REST_S)
            began, end = time.perf_counter(), time.thread_time() + length / 1e3
            while time.thread_time() < end:
                pass
            shares.append(length / 1e3 / (time.perf_counter() - began))
        found[f"{length:g}"] = statistics.median(shares)
    print(json.dumps(found))


def serve() -> None:
    """Echo datagrams and swallow streams, both on one port, until standard input ends."""
    stream, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    stream.bind(("", 0))
    stream.listen()
    datagrams.bind(("", stream.getsockname()[1]))

    def echo() -> None:
        while True:
            datagrams.sendto(*datagrams.recvfrom(64))

    def swallow() -> None:
        while True:
            connection, _ = stream.accept()
            left = _STREAM_BYTES
            while left and (piece := connection.recv(min(left, 1 << 20))):
                left -= len(piece)
            connection.sendall(b"!")
            connection.close()

    for job in (echo, swallow):
        threading.Thread(target=job, daemon=True).start()
    print(json.dumps(stream.getsockname()[1]), flush=True)
    sys.stdin.read()


def ask(address: str, port: int) -> None:
    """Print the median round trip of 8 bytes in milliseconds, and the rate of a stream in Mbit/s."""
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(_DEADLINE_S)
        datagrams.connect((address, port))
        trips = []
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            datagrams.send(bytes(8))
            datagrams.recv(64)
            trips.append(time.perf_counter() - began)
    with socket.create_connection((address, port), _DEADLINE_S) as stream:
        began = time.perf_counter()
        for _ in range(_STREAM_BYTES // _PIECE):
            stream.sendall(bytes(_PIECE))
        stream.recv(1)
        seconds = time.perf_counter() - began
    print(json.dumps({"rtt_ms": statistics.median(trips) * 1e3, "mbit_per_s": _STREAM_BYTES * 8 / seconds / 1e6}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bursts", *lengths]:
            bursts([float(length) for length in lengths])
        case ["serve"]:
            serve()
        case ["ask", address, port]:
            ask(address, int(port))
        case _:
            sys.exit(__doc__)
