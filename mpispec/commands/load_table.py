"""What came of a load as a table: a row a figure, a column a strategy or server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_PLACES = 16
"""Stages or ranks that get a row each; of more the least and the most are shown."""


def load_lines(columns: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the figures of `mpispec.load` as lines, numbers right-aligned. What no column has is left out.

    A single column has no heading.
    """
    rows = [("", list(columns))] if len(columns) > 1 else []
    for label, cells in _rows(list(columns.values())):
        if any(cell != "-" for cell in cells):
            rows.append((label, cells))
    wide = max(len(label) for label, _ in rows)
    widths = [max(len(cells[index]) for _, cells in rows) for index in range(len(columns))]
    return [
        "  ".join([label.ljust(wide), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]).rstrip()
        for label, cells in rows
    ]


def _rows(found: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    def row(label: str, show: Any) -> tuple[str, list[str]]:
        return label, [show(one) for one in found]

    return [
        row("requests answered", lambda one: str(one["requests"]["ok"])),
        row("cancelled, failed", lambda one: f"{one['requests']['cancelled']}, {one['requests']['failed']}"),
        row("tokens per s", lambda one: _number(one["tokens_per_s"], 2)),
        row("requests per s", lambda one: _number(one["requests_per_s"], 3)),
        row("TTFT, s: p50, p95, p99", lambda one: _spread(one["ttft_s"], 2)),
        row("time per output token, ms: p50, p95, p99", lambda one: _spread(one["tpot_ms"], 1)),
        row("between tokens, ms: p50, p95, p99", lambda one: _spread(one["itl_ms"], 1)),
        row("longest gap, ms", lambda one: _number((one["itl_ms"] or {}).get("most"), 1)),
        row("whole answer, s: p50, p95, p99", lambda one: _spread(one["latency_s"], 2)),
        row("fairness (Jain, tokens/s of answers)", lambda one: _number(one["fairness"], 3)),
        row("acceptance rate", lambda one: _share(one.get("acceptance_rate"))),
        row("rows a run", lambda one: _number(one.get("rows_per_run"), 2)),
        row("rows a run, prompts left out", lambda one: _number(one.get("deciding_rows_per_run"), 2)),
        *_idle(found),
    ]


def _idle(found: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    all_idle = [one.get("idle") or {} for one in found]
    names = list(dict.fromkeys(name for idle in all_idle for name in idle))
    if len(names) <= _MOST_PLACES:
        return [(f"idle, {name}", [_share(idle.get(name)) for idle in all_idle]) for name in names]
    bounds = [(min(known), max(known)) if (known := list(idle.values())) else (None, None) for idle in all_idle]
    return [(f"idle, {which}", [_share(pair[at]) for pair in bounds]) for at, which in enumerate(("least", "most"))]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _spread(values: Mapping[str, float] | None, digits: int) -> str:
    return "-" if values is None else " / ".join(f"{values[name]:.{digits}f}" for name in ("p50", "p95", "p99"))
