"""One frame of `mpispec top`, drawn with rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpispec.commands.top_reading import Change

_BAR, _SHORT_BAR = 20, 8
"""Characters."""
_BLOCKS = " ▏▎▍▌▋▊▉█"
_UNITS = ("B", "kB", "MB", "GB", "TB")


def frame(url: str, change: Change, complaint: str = "") -> RenderableType:
    """Return what is shown of a server; `complaint` says why it is not newer."""
    span = f"of the last {change.seconds:.1f} s" if change.before.samples else "since the start"
    parts: list[RenderableType] = [_title(url, change)]
    if complaint:
        parts.append(Text(complaint, style="bold red"))
    parts += [
        _panel("requests", _requests(change)),
        _panel("cache", _cache(change)),
        _panel("drafts", _drafts(change)),
        _panel("ranks", _ranks(change)),
        Text(f"Latencies are median / 95th percentile. They, rates and shares are {span};", style="dim"),
        Text("latencies since the start where nothing has ended meanwhile.", style="dim"),
    ]
    return Group(*parts)


def _title(url: str, change: Change) -> Text:
    model = next(iter(change.now.info("model_info")), {})
    words = (model.get("model_name", "?"), model.get("exactness", ""), url, f"up {_span(change.now.uptime_s)}")
    return Text("mpispec top  ", style="bold").append("  ".join(word for word in words if word), style="not bold")


def _panel(title: str, body: RenderableType) -> Panel:
    return Panel(body, title=escape(title), title_align="left", box=box.ROUNDED, padding=(0, 1))


def _requests(change: Change) -> Table:
    now = change.now
    running, most = now.value("num_requests_running"), now.value("num_requests_most")
    ends = now.by("request_success_total", "finished_reason")
    codes = now.by("http_requests_total", "code")
    table = _pairs()
    table.add_row(
        *("running", f"{running:.0f} of {most:.0f}"),
        *("waiting", f"{now.value('num_requests_waiting'):.0f}"),
        *("ended", _counts(ends)),
    )
    table.add_row(
        *("tokens/s", f"{change.rate('generation_tokens_total'):.1f}"),
        *("prompt tokens/s", f"{change.rate('prompt_tokens_total'):.1f}"),
        *("HTTP", _counts(codes)),
    )
    table.add_row(
        *("first token", _quantiles(change, "time_to_first_token_seconds")),
        *("between tokens", _quantiles(change, "inter_token_latency_seconds")),
        *("queue", _quantiles(change, "request_queue_time_seconds")),
    )
    return table


def _cache(change: Change) -> Table:
    now = change.now
    used, cells = now.value("kv_cache_cells_used"), now.value("kv_cache_cells")
    asked, found = (change.of(f"prefix_cache_{what}_total") for what in ("queries", "hits"))
    table = _pairs(2)
    table.add_row(
        *("cells", f"{_bar(used / cells if cells else 0.0, _SHORT_BAR)} {used:.0f} of {cells:.0f}"),
        *("cached of prompts", f"{found / asked:.0%}" if asked else "-"),
        *("preemptions", f"{now.value('num_preemptions_total'):.0f}"),
    )
    return table


def _drafts(change: Change) -> RenderableType:
    now = change.now
    table = _columns("drafter", "drafted/s", "accepted/s", "acceptance", "since the start")
    for drafter, verified in now.by("spec_decode_num_verified_total", "drafter").items():
        counts = [
            change.of(f"spec_decode_num_{what}_total", drafter=drafter)
            for what in ("draft_tokens", "accepted_tokens", "verified")
        ]
        accepted = now.value("spec_decode_num_accepted_tokens_total", drafter=drafter)
        per_s = [f"{count / change.seconds:.1f}" if change.seconds > 0 else "-" for count in counts[:2]]
        table.add_row(escape(drafter), *per_s, _share(counts[1], counts[2]), _share(accepted, verified))
    flight = (
        f"in flight: {now.value('runs_in_flight'):.0f} runs, {now.value('rows_in_flight'):.0f} rows;"
        f" rows/s: {change.rate('rows_total'):.1f}, cancelled {change.rate('cancelled_rows_total'):.1f}"
    )
    return Group(table, Text(flight))


def _ranks(change: Change) -> Table:
    table = _columns("rank", "host", "roles", "layers", "busy", "sent/s")
    for rank in sorted(change.now.info("rank_info"), key=lambda rank: int(rank["rank"])):
        number = rank["rank"]
        busy = change.busy(number)
        shown = "-" if busy is None else f"{_bar(busy)} {busy:4.0%}"
        before = change.before.by("link_bytes_total", "src")
        sent = change.now.by("link_bytes_total", "src").get(number, 0.0) - before.get(number, 0.0)
        per_s = _bytes(sent / change.seconds) if change.seconds > 0 else "-"
        words = (escape(rank[name]) or "-" for name in ("host", "roles", "layers"))
        table.add_row(number, *words, shown, per_s)
    return table


def _pairs(first: int = 1) -> Table:
    """Return a table of three names and values in a row; the first value is `first` times as wide as another."""
    table = Table.grid(padding=(0, 1), expand=True)
    for ratio in (first, 1, 1):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=ratio)
    return table


def _columns(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=name != "roles")
    return table


def _counts(counts: dict[str, float]) -> str:
    return " ".join(f"{escape(name)} {count:.0f}" for name, count in sorted(counts.items())) or "-"


def _quantiles(change: Change, name: str) -> str:
    """Return the median and the 95th percentile."""
    found = [change.quantile(name, share) for share in (0.5, 0.95)]
    return " / ".join("-" if seconds is None else _span(seconds) for seconds in found)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"


def _bar(share: float, width: int = _BAR) -> str:
    """Return a bar of `width` characters, eight steps each."""
    steps = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(steps, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width, "·")


def _span(seconds: float) -> str:
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100.0:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _bytes(number: float, units: Sequence[str] = _UNITS) -> str:
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} {units[-1]}"
