"""The plan and the outcome as tables that fit a screen."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mpispec.compute.factory import backend_of
from mpispec.runtime.plan import StagePlace
from mpispec.runtime.process import advise
from mpispec.runtime.rank import RankReport
from mpispec.runtime.setup import Setup


def plan_lines(setup: Setup) -> list[str]:
    """Return the plan: what each rank is, where, and what it holds."""
    model, plan = setup.model, setup.plan
    title = (
        f"{model.name}: {model.layers} layers, {_size(model.file_bytes)}, on {plan.num_ranks} "
        f"{'rank' if plan.num_ranks == 1 else 'ranks'}"
    )
    rows = [("rank", "host", "roles", "layers", "weights", "threads")]
    for rank, host in enumerate(setup.hosts):
        held = [_held(setup, stage) for stage in plan.stages_of(rank)]
        held += [
            f"{stage.first}-{stage.last} of {setup.levels[level].path.name.removesuffix('.gguf')}"
            for level, stage in plan.level_stages_of(rank)
        ]
        layers = ",".join(held) or "-"
        threads = str(setup.threads[rank]) if plan.num_computing(rank) else "-"
        rows.append((str(rank), host, "+".join(plan.roles_of(rank)), layers, _size(setup.bytes_of(rank)), threads))
    return [title, *table(rows), *_few_threads(setup), *_without_gpu(setup)]


def _held(setup: Setup, stage: StagePlace) -> str:
    """Return the layers of a stage, and what computes them where not all are computed by the same, and how."""
    name = backend_of(setup.form_of(stage).path).name
    how = "/".join([name, *(value for _, value in stage.torch)])
    return f"{stage.first}-{stage.last}" + (f" on {how}" if len(setup.forms) > 1 or stage.torch else "")


def show_plan(setup: Setup) -> None:
    """Show what is about to be loaded, and where."""
    click.echo("\n".join(plan_lines(setup)) + "\n", err=True)
    advise()


def _few_threads(setup: Setup) -> list[str]:
    """Return a line for each host that gets fewer threads than it has processors: why that is."""
    reasons = dict.fromkeys(zip(setup.hosts, setup.few_threads, strict=False))
    return [f"threads on {host}: {reason}; --threads overrides it" for host, reason in reasons if reason]


def _without_gpu(setup: Setup) -> list[str]:
    """Return a line if layers were meant for GPUs and some ranks have none for llama.cpp."""
    without = [
        str(rank) for rank, layers in enumerate(setup.gpu_layers) if not layers and "llama" in setup.backends_of(rank)
    ]
    if not any(setup.gpu_layers) or not without:
        return []
    return [f"--gpu-layers has no effect on rank {', '.join(without)}: llama.cpp finds no GPU there"]


def report_lines(ranks: Sequence[RankReport]) -> list[str]:
    """Return what the ranks did."""
    rows = [("rank", "host", "roles", "layers", "busy")]
    for report in ranks:
        layers = ",".join(f"{first}-{last}" for first, last in report.layers) or "-"
        rows.append((str(report.rank), report.host, "+".join(report.roles), layers, f"{report.busy:.0%}"))
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
