"""How slow the hosts of a cluster really are, and how fast their cables: what was asked for and what is found."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from emulation import hosts, shares
from emulation.errors import Failed
from emulation.hosts import Host

BURSTS_MS = ("1", "4", "32")
"""Milliseconds of work: about a stage of a small model, a larger one, a whole model."""
_PROBE = str(Path(__file__).with_name("probe.py"))
_DEADLINE_S = 120.0


def self_test(cluster: str) -> dict[str, Any]:
    """Return the share of every host by length of burst, and round trip and rate between neighbours, one at a time."""
    members = hosts.hosts_of(cluster)
    found = [
        {"host": host.name, "asked_share": shares.asked(cluster, host.name), "share": _share(cluster, host)}
        for host in members
    ]
    links = [_link(cluster, one, other) for one, other in itertools.pairwise(members)]
    return {"hosts": found, "links": links}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the tables for people; a deviation is of what was found from what was asked for."""
    rows = [f"{'host':<10}{'share':>8}" + "".join(f"{length + ' ms':>16}" for length in BURSTS_MS)]
    for host in found["hosts"]:
        asked = host["asked_share"]
        cells = [f"{share:.3f} {_off(share, asked):>7}" for share in host["share"].values()]
        rows.append(f"{host['host']:<10}{asked or 'all':>8}" + "".join(f"{cell:>16}" for cell in cells))
    rows += ["", f"{'link':<18}{'round trip':>12}{'rate':>14}{'asked':>12}"]
    for link in found["links"]:
        asked = link["asked_mbit_per_s"]
        rate = f"{link['mbit_per_s']:.0f} Mbit/s"
        limit = f"{asked:.0f} {_off(link['mbit_per_s'], asked)}" if asked else "any"
        rows.append(f"{link['from'] + ' ' + link['to']:<18}{link['rtt_ms']:>9.2f} ms{rate:>14}{limit:>12}")
    return rows


class Deviation(NamedTuple):
    """A share or a rate that was asked for, and what was found."""

    what: str
    found: float
    asked: float
    unit: str

    @property
    def fraction(self) -> float:
        """How far off it is."""
        return abs(self.found / self.asked - 1)


def require_within(found: dict[str, Any], fraction: float) -> None:
    """Raise Failed if a share or a rate is further off than that; what was not asked for cannot be."""
    deviations = [
        Deviation(f"The share of {host['host']} in bursts of {length} ms", share, host["asked_share"], " of a core")
        for host in found["hosts"]
        for length, share in host["share"].items()
        if host["asked_share"]
    ]
    deviations += [
        Deviation(f"The rate from {link['from']} to {link['to']}", link["mbit_per_s"], asked, " Mbit/s")
        for link in found["links"]
        if (asked := link["asked_mbit_per_s"])
    ]
    worst = max(deviations, key=lambda deviation: deviation.fraction, default=None)
    if worst is not None and worst.fraction > fraction:
        raise Failed(
            f"{worst.what} is {worst.found:.3g}{worst.unit} instead of {worst.asked:g}, {worst.fraction:.0%} off; "
            f"let nothing else run, share with --fine, or allow more with --within (now {fraction:g})."
        )


def _off(found: float, asked: float | None) -> str:
    return f"{found / asked - 1:+.0%}" if asked else ""


def _share(cluster: str, host: Host) -> dict[str, float]:
    share: dict[str, float] = json.loads(_run(cluster, host, "bursts", *BURSTS_MS))
    return share


def _link(cluster: str, one: Host, other: Host) -> dict[str, Any]:
    server = subprocess.Popen(
        _command(cluster, other, "serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            raise Failed(f"{other.name} does not answer; is the cluster still up?")
        found = json.loads(_run(cluster, one, "ask", other.address, port))
    finally:
        server.communicate()
    return {"from": one.name, "to": other.name, "asked_mbit_per_s": hosts.rate_of(one), **found}


def _run(cluster: str, host: Host, *arguments: str) -> str:
    try:
        done = subprocess.run(
            _command(cluster, host, *arguments), capture_output=True, text=True, timeout=_DEADLINE_S, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{host.name} could not be measured: {error}.") from None
    return done.stdout


def _command(cluster: str, host: Host, *arguments: str) -> list[str]:
    return [sys.executable, sys.argv[0], "--cluster", cluster, "exec", host.name, sys.executable, _PROBE, *arguments]
