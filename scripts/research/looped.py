"""Train a small llama whose layers are applied several times, with an exit after each cycle.

python scripts/research looped FOLDER [--minutes 15] [--steps N] [--width 384] [--layers 4] [--cycles 4] [--seed 0]

The decoder with shared weights of SPEED (arXiv 2310.12072), on the English text that comes with Python and numpy (see
`looped_text.py`). FOLDER has Hugging Face's form, weights in float32. Needs `mpispec[torch]` and torch 2.9.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpispec.bench.errors import BenchError
from mpispec.bench.printing import json_flag
from research import looped_text


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=15.0, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help="Train for so many steps, which can be repeated exactly.")
@click.option(
    "--width", type=click.IntRange(min=1), default=384, show_default=True, help="Of a hidden state; a multiple of 64."
)
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True, help="Layers of the block.")
@click.option("--cycles", type=click.IntRange(min=1), default=4, show_default=True, help="How often it is applied.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bfloat16", "is_bfloat16", is_flag=True, help="Multiply in bfloat16 while training.")
@json_flag
def main(folder: Path, is_json: bool, **recipe: Any) -> None:
    """Train a model, write it as FOLDER and print how well each exit does."""
    from research import looped_figures, looped_training  # noqa: PLC0415  torch takes seconds

    if recipe["width"] % looped_training.HEAD_SIZE:
        raise BenchError(f"The width {recipe['width']} is no multiple of 64; choose one that is.")
    learnt, held_out = looped_text.split()
    tokenizer = looped_training.learn_tokens(learnt)
    wanted = looped_training.Recipe(**recipe)
    model = looped_training.blank(wanted, tokenizer)
    tokens = looped_training.stream(tokenizer, learnt)
    began = time.monotonic()
    steps = looped_training.train(model, tokens, wanted)
    minutes = (time.monotonic() - began) / 60
    looped_training.save(model, tokenizer, folder)
    exits, written = looped_figures.measure(model, tokenizer, held_out)
    found = {
        "folder": str(folder),
        "recipe": asdict(wanted),
        "steps": steps,
        "minutes": round(minutes, 1),
        "parameters": model.num_parameters(),
        "block_parameters": sum(each.numel() for each in model.model.layers.parameters()),
        "learnt_sections": len(learnt),
        "learnt_characters": sum(map(len, learnt)),
        "learnt_tokens": len(tokens),
        "held_out_sections": len(held_out),
        "held_out_characters": sum(map(len, held_out)),
        "exits": [{key: round(value, 4) for key, value in asdict(each).items()} for each in exits],
        "written": written,
    }
    click.echo(json.dumps(found) if is_json else "\n".join(lines(found)))


def lines(found: dict[str, Any]) -> list[str]:
    """Say for people what was found."""
    shown = [
        f"{found['steps']} steps in {found['minutes']} minutes, {found['parameters']} parameters",
        f"{found['learnt_sections']} sections learnt, {found['learnt_characters']} characters",
        f"{found['held_out_sections']} sections held out, {found['held_out_characters']} characters",
    ]
    for cycle, each in enumerate(found["exits"], 1):
        shown.append(
            f"after cycle {cycle}  {each['bits_per_character']:.3f} bits per character  agrees with the last on "
            f"{each['held_out_agreement']:.1%} of held-out text, {each['written_agreement']:.1%} of its own"
        )
    return [*shown, *(f"\n{each}" for each in found["written"])]
