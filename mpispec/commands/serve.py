"""`mpispec serve`: a chat on standard input and an HTTP server over one engine."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import click

from mpispec.commands.flags import job_flags, job_options, read_sampling, repeats_flag, sampling_flags
from mpispec.commands.prompt import open_chat, recommended, stops_of
from mpispec.commands.tables import show_plan
from mpispec.models.default import ABOUT
from mpispec.models.recommended import Recommended
from mpispec.runtime import exactness
from mpispec.runtime.engine import Engine
from mpispec.runtime.group import Group, JobError, on_rank_0
from mpispec.runtime.job import FrontEnd, run_job
from mpispec.runtime.process import AskedToEnd, Interrupts, leave_ending_to_rank_0
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.serve.address import Access, ServeError, bind, find_access
from mpispec.serve.dialogue import SET_BY_FIELDS
from mpispec.serve.prompt import Prompts
from mpispec.serve.repl import DescriptorLines, Repl
from mpispec.serve.server import PING_SECONDS, Closing, Server
from mpispec.serve.service import Manner, Service

_STANDARD_INPUT = 0


class Serve(FrontEnd[None]):
    """Serves until `/quit`, Ctrl-C at an idle prompt, Ctrl-D at a terminal, or a signal to end.

    The end of an input that is no terminal leaves the HTTP server running: under nohup there is no input at all.
    """

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._door: tuple[socket, Access] | None = None
        """Where clients come in, and who may; on rank 0, as all below."""
        self._vocabulary: Any = None
        self._template: Any = None
        self._manner = Manner()
        self._model = ""
        self._interrupts: Interrupts | None = None
        self._asked: AskedToEnd | None = None

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        options = job_options(self._flags)
        parallel = self._flags["parallel"] or exactness.usual_parallel(options.exactness)
        options = replace(options, parallel=parallel, cells=self._flags["cells"])
        if options.drafter == "oracle":
            raise JobError("--drafter oracle:H needs a recorded text, which a server does not have; use generate.")
        return options

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """See `FrontEnd`: take the port."""
        self._door = on_rank_0(group, self._open_door, None)
        chosen = self._flags["chat_template"]
        self._vocabulary, self._template = on_rank_0(group, lambda: open_chat(setup, chosen), (None, None))
        advice = on_rank_0(group, lambda: recommended(setup), Recommended({}, ""))
        self._manner = _manner(self._flags, advice)
        self._model = setup.model.path.name.removesuffix(".gguf")
        return stops_of(self._vocabulary)

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
        assert self._door is not None and self._interrupts is not None and self._asked is not None
        greeting = "" if self._flags["model"] else ABOUT
        prompts = Prompts(self._vocabulary, self._template, self._flags["chat_template_kwargs"])
        aliases = self._flags["alias"]
        service = Service(engine, self._vocabulary, prompts, self._model, self._manner, greeting, aliases)
        ended = threading.Event()
        server = Server(service, *self._door, ping_s=self._flags["sse_ping"])
        repl = Repl(service, DescriptorLines(_STANDARD_INPUT), sys.stdout) if self._flags["repl"] else None
        also = [ended.set] if repl is None else [ended.set, repl.end]
        closing = Closing(server, engine, self._flags["grace"], also)
        server.start()
        sys.stderr.write(f"mpispec: answers are drawn with {self._manner.describe()}\n")
        sys.stderr.write(f"mpispec: serving {self._model} on {server.url}\n")
        sys.stderr.flush()
        self._asked.call(closing.ask)
        try:
            if repl is not None:
                self._interrupts.call(repl.interrupt)
                if repl.run() != "eof" or os.isatty(_STANDARD_INPUT):
                    return
            self._interrupts.call(ended.set)
            ended.wait()
        finally:
            closing.wait()
            server.stop()

    def _open_door(self) -> tuple[socket, Access]:
        flags = self._flags
        try:
            access = find_access(flags["host"], flags["api_key"], flags["api_key_file"], flags["cors_origin"])
            return bind(flags["host"], flags["port"]), access
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
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP server.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="MPISPEC_API_KEY", help="Demanded from clients; required off 127.0.0.1.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Further such keys, one a line.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="A web page that may use the server, such as http://localhost:3000; * for all, with a key.",
)
@click.option("--alias", multiple=True, metavar="NAME", help="Another name of the model; gpt-* stands for many.")
@click.option("--chat-template", metavar="FILE", help="Another chat template than the model's: a file, or chatml.")
@click.option(
    "--chat-template-kwargs",
    type=_Names(),
    metavar="JSON",
    help="Names for the chat template, such as '{\"enable_thinking\": false}'; requests may overrule them.",
)
@click.option(
    "--sse-ping",
    type=click.FloatRange(0, 3600),
    default=PING_SECONDS,
    show_default=True,
    help="Seconds of silence after which a stream says that it is still there; 0 never does.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds that open requests get when SIGTERM asks the server to end.",
)
def serve(**flags: Any) -> None:
    """Chat here, and answer OpenAI-compatible HTTP requests at the same time."""
    run_job(Serve(flags))
