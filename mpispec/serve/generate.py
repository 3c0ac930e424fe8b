"""One prompt, one answer: the application behind `mpispec generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.job import RankReport
from mpispec.runtime.text_promise import TextPromise
from mpispec.serve.completion import Completed, Completion, written
from mpispec.serve.screen import Screen
from mpispec.serve.service import Vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """What `generate` leaves behind."""

    completed: Completed
    was_interrupted: bool
    is_synthetic: bool
    """Whether the oracle proposed: the speed then says nothing about a real proposer."""
    promise: TextPromise

    def to_json(self, ranks: list[RankReport]) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        report = dict(self.completed.report)
        written = {
            "text": self.completed.text,
            "tokens": list(self.completed.tokens),
            "finish_reason": self.completed.finish_reason,
            "prompt_tokens": self.completed.prompt_tokens,
            "cut": "repeats" if self.completed.is_cut else None,
            "strategy": report["strategy"],
            "proposer": report["proposer"],
            "seed": report["seed"],
            "is_exact": self.promise.is_exact,
            "exactness": str(self.promise),
            "timing": report["timing"],
            "speculation": report["speculation"],
            "ranks": [
                {"rank": r.rank, "host": r.host, "roles": r.roles, "layers": r.layers, "busy": round(r.busy, 4)}
                for r in ranks
            ],
        }
        if self.is_synthetic:
            written["synthetic"] = "the oracle proposer was scripted with this very text"
        return written

    def summary(self) -> list[tuple[str, str]]:
        """Return the figures for people, as name and value."""
        report = self.completed.report
        timing, speculation = report["timing"], report["speculation"]
        rows = [
            ("strategy", f"{report['strategy']}, proposer {report['proposer']}"),
            ("tokens", f"{report['tokens']} after a prompt of {report['prompt_tokens']}"),
            ("speed", _figure(timing["tokens_per_s"], "tokens/s")),
            ("first token", _figure(timing["ttft_s"], "s", 3)),
            ("between tokens", _spread(timing["itl_ms"])),
        ]
        if speculation["hit_rate"] is not None:
            rows.append(("guesses right", f"{speculation['hit_rate']:.0%} of those decided"))
            rows.append(("runs", f"{speculation['runs']}, {speculation['cancelled_runs']} cancelled"))
        if self.completed.is_cut:
            rows.append(("cut", "it only repeated itself; with --no-cut-repeats it goes on"))
        if self.is_synthetic:
            rows.append(("note", "synthetic: the oracle proposer was scripted with this very text"))
        return rows


def generate(
    engine: Engine,
    vocabulary: Vocabulary,
    generation: Generation,
    on_interrupt: Callable[[Callable[[], None]], None],
    is_quiet: bool,
    cuts_repeats: bool = False,
) -> Answer:
    """Write the continuation to standard output as it is decided, unless quiet."""
    is_synthetic = generation.proposer == "oracle"
    if is_synthetic:
        plain = written(engine, vocabulary, replace(generation, strategy="plain", proposer="none"))
        engine.recorded = (*generation.prompt, *plain.tokens)
    completion = Completion(engine, vocabulary, generation, cuts_repeats=cuts_repeats)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        completion.interrupt()

    on_interrupt(interrupt)
    screen = Screen(sys.stdout)
    for text in completion:
        if not is_quiet:
            screen.write(text)
    if not is_quiet:
        screen.end_line()
    return Answer(completion.result(), interrupted, is_synthetic, engine.promise)


def _spread(itl_ms: dict[str, float | None]) -> str:
    if itl_ms["p50"] is None:
        return "-"
    return f"{_figure(itl_ms['p50'], 'ms')} median, {_figure(itl_ms['p95'], 'ms')} p95"


def _figure(value: float | None, unit: str, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}"
