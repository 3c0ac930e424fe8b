"""`mpispec serve`: a chat on standard input and an HTTP server over one engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import click

from mpispec.commands.door import door_flags, read_door, refuse_door
from mpispec.commands.flags import job_flags, job_options, read_sampling, repeats_flag, sampling_flags
from mpispec.commands.prompt import open_chat, recommended, stops_of
from mpispec.commands.tables import show_plan
from mpispec.front.host import EngineHost
from mpispec.front.messages import Door, Served
from mpispec.front.process import FrontProcess, Joined
from mpispec.models.default import ABOUT
from mpispec.models.recommended import Recommended
from mpispec.runtime import exactness
from mpispec.runtime.engine import Engine
from mpispec.runtime.group import Group, JobError, on_rank_0
from mpispec.runtime.job import FrontEnd, run_job
from mpispec.runtime.process import AskedToEnd, Interrupts, leave_ending_to_rank_0
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.serve.http.address import ServeError, bind
from mpispec.serve.text.dialogue import SET_BY_FIELDS
from mpispec.serve.text.service import Manner


class Serve(FrontEnd[None]):
    """Serves by a front process until that has had enough."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._front: FrontProcess | Joined | None = None
        """On rank 0, as all below."""
        self._interrupts: Interrupts | None = None
        self._asked: AskedToEnd | None = None

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        options = job_options(self._flags)
        parallel = self._flags["parallel"] or exactness.usual_parallel(options.exactness)
        may_shrink = self._flags["parallel"] is None
        options = replace(options, parallel=parallel, may_shrink=may_shrink, cells=self._flags["cells"])
        if options.drafter == "oracle":
            raise JobError("--drafter oracle:H needs a recorded text, which a server does not have; use generate.")
        return options

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """See `FrontEnd`: take the port, start the front process."""
        door = on_rank_0(group, self._open_door, None)
        vocabulary, _ = on_rank_0(group, lambda: open_chat(setup, self._flags["chat_template"]), (None, None))
        advice = on_rank_0(group, lambda: recommended(setup), Recommended({}, ""))
        self._front = on_rank_0(group, lambda: self._start_front(door, self._served(setup, advice)), None)
        return stops_of(vocabulary)

    def say(self, sentence: str) -> None:
        """See `FrontEnd`."""
        click.echo(sentence, err=True)

    def begin(self, group: Group, setup: Setup) -> None:
        """See `FrontEnd`: show the plan, take the signals."""
        if group.rank == 0:
            show_plan(setup)
            self._interrupts = Interrupts(goes_on=self._flags["repl"])
            self._asked = AskedToEnd()
        else:
            leave_ending_to_rank_0(self._flags["grace"])

    def serve(self, engine: Engine) -> None:
        """See `FrontEnd`."""
        assert self._front is not None and self._interrupts is not None and self._asked is not None
        host = EngineHost(engine, self._front.link)
        self._interrupts.call(host.interrupt)
        self._asked.call(host.refuse)
        try:
            host.run()
        finally:
            self._front.end()

    def _served(self, setup: Setup, advice: Recommended) -> Served:
        flags = self._flags
        return Served(
            path=setup.model.path,
            name=setup.model.path.name.removesuffix(".gguf"),
            manner=_manner(flags, advice),
            template=flags["chat_template"],
            names=flags["chat_template_kwargs"] or {},
            aliases=flags["alias"],
            greeting="" if flags["model"] else ABOUT,
        )

    def _open_door(self) -> tuple[Door, socket] | None:
        """Take the port before anything is loaded; nothing where that is another process's affair."""
        flags = self._flags
        if flags["front"] is not None:
            return None
        try:
            door = read_door(flags, self.options().parallel, has_repl=flags["repl"])
            return door, bind(flags["host"], flags["port"])
        except ServeError as error:
            raise JobError(str(error)) from error

    def _start_front(self, opened: tuple[Door, socket] | None, served: Served) -> FrontProcess | Joined:
        if opened is not None:
            door, listener = opened
            return FrontProcess(door, served, listener)
        try:
            return Joined(self._flags["front"], served)
        except ServeError as error:
            raise JobError(str(error)) from error


def _manner(flags: dict[str, Any], advice: Recommended) -> Manner:
    sampling = read_sampling(flags, advice.values)
    likeliest = read_sampling({**flags, "temperature": 0.0})
    is_advised = any(flags.get(name) is None for name in advice.values) and flags["temperature"] != 0.0
    cuts = True if flags["cut_repeats"] is None else flags["cut_repeats"]
    return Manner(sampling, likeliest, flags["seed"], advice.source if is_advised else "", cuts)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Return the object."""
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON ({error}).", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value!r} is no JSON object.", param, ctx)
        if taken := sorted(SET_BY_FIELDS & set(found)):
            self.fail(f"{taken[0]} is set by each request.", param, ctx)
        return found


@click.command()
@job_flags
@sampling_flags
@repeats_flag
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    help="Most requests at once; others wait. [default: 4, which stay exact; 32 with --exactness throughput]",
)
@click.option(
    "--cells",
    type=click.IntRange(min=2),
    help="Cells for all requests and cached texts. [default: a quarter of --parallel x --ctx, 2 x --ctx at least]",
)
@click.option("--repl/--no-repl", default=True, help="Chat on standard input of rank 0.")
@door_flags
@click.option("--alias", multiple=True, metavar="NAME", help="Another name of the model; gpt-* stands for many.")
@click.option("--chat-template", metavar="FILE", help="Another chat template than the model's: a file, or chatml.")
@click.option(
    "--chat-template-kwargs",
    type=_Names(),
    metavar="JSON",
    help="Names for the chat template, such as '{\"enable_thinking\": false}'; requests may overrule them.",
)
@click.option(
    "--front",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Serve by a front process that was started there (mpispec front), which has the HTTP server.",
)
def serve(**flags: Any) -> None:
    """Chat here, and answer OpenAI-compatible HTTP requests at the same time."""
    if flags["front"] is not None:
        refuse_door()
        flags["repl"] = False
    run_job(Serve(flags))
