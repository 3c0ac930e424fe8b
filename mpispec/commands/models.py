"""`mpispec inspect` and `mpispec cut`: what a model file holds, and its layer ranges."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mpispec.commands.tables import table
from mpispec.compute.factory import backend_of
from mpispec.models import cut as cutting
from mpispec.models import default, registry
from mpispec.models.errors import ModelError
from mpispec.runtime.process import USAGE, complain


@click.command()
@click.argument("model", required=False)
def inspect(model: str | None) -> None:
    """Show layers and sizes of a model, and whether it may be cut into layer ranges."""
    with _sentences():
        path = default.resolve(model)
        summary = backend_of(path).inspect(path)
        rows = [
            ("file", f"{summary.path} ({summary.file_bytes / 1e6:.1f} MB)"),
            ("name", summary.name),
            ("architecture", summary.architecture),
            ("layers", str(summary.layers)),
            ("activation", f"{summary.width} numbers a token, {4 * summary.width} bytes on the wire"),
            ("context", f"{summary.context} positions"),
            ("vocabulary", f"{summary.vocabulary} tokens"),
            ("embedding", f"{summary.embedding_bytes / 1e6:.1f} MB"),
            ("projection", f"{summary.head_bytes / 1e6:.1f} MB, costs as much as {summary.head_layers:.1f} layers"),
            ("a layer", _layer_sizes(summary.layer_bytes)),
            ("certified", f"{'yes' if summary.certified else 'no'}: {summary.reason}"),
        ]
        click.echo("\n".join(table(rows)))


@click.command()
@click.argument("model", required=False)
@click.option("--parts", type=click.IntRange(min=1), required=True, help="Number of layer ranges.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for the parts.")
@click.option("--insist", is_flag=True, help="Cut a model whose layer ranges are not certified.")
def cut(model: str | None, parts: int, out: Path, insist: bool) -> None:
    """Cut a model into layer ranges by hand; `generate` and `serve` do it by themselves."""
    with _sentences():
        path = default.resolve(model)
        if path.is_dir():
            raise ModelError(f"{path} needs no cutting: a rank reads its own layers out of the folder.")
        summary = registry.inspect(path)
        pieces = registry.ranges(summary.layers, parts, summary.unit, summary.head_layers)
        cutting.make_folder(out)
        for layers in pieces:
            name = f"{summary.path.stem}.{layers.start:03}-{layers.stop - 1:03}.gguf"
            cutting.cut(summary.path, layers, out / name, insist=insist)
            click.echo(f"{out / name}  layers {layers.start}-{layers.stop - 1}")


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn a model's error into a sentence and an exit code."""
    try:
        yield
    except (ModelError, OSError) as error:
        complain(str(error))
        sys.exit(USAGE)


def _layer_sizes(sizes: tuple[int, ...]) -> str:
    low, high = min(sizes) / 1e6, max(sizes) / 1e6
    return f"{low:.1f} MB" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f} MB"
