"""`mpispec chat`: a chat on this terminal with a server, ours or any other in OpenAI's form."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from mpispec.runtime.process import INTERRUPTED, USAGE, complain
from mpispec.serve.http.address import KEY_VARIABLE

if TYPE_CHECKING:
    from mpispec.serve.terminal.remote import Remote

_STANDARD_INPUT = 0


class _Refusal(Exception):
    """The chat cannot be; the text is one sentence with the remedy."""


def _check_installed() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("httpx", "prompt_toolkit")):
        raise _Refusal("mpispec chat needs httpx and prompt_toolkit: pip install 'mpispec[chat]'.")


def _once(remote: Remote, model: str, settings: dict[str, Any], text: str) -> int:
    """Answer one message on standard output, and nothing but the answer; return the exit code."""
    from mpispec.serve.terminal.remote import Failed, chat_body  # noqa: PLC0415
    from mpispec.serve.terminal.screen import Screen  # noqa: PLC0415

    screen = Screen(sys.stdout)
    answer = remote.ask(chat_body(model, [{"role": "user", "content": text}], settings))
    signal.signal(signal.SIGINT, lambda *_: answer.interrupt())
    try:
        for added in answer:
            screen.write(added)
    except Failed as failed:
        raise _Refusal(str(failed)) from None
    finally:
        screen.end_line()
        answer.withdraw()
    return 0 if answer.written.finish is not None else INTERRUPTED


def _talk(remote: Remote, model: str, settings: dict[str, Any]) -> int:
    """Chat on standard input and output; return the exit code."""
    from mpispec.serve.terminal.editor import open_entries  # noqa: PLC0415
    from mpispec.serve.terminal.entries import DescriptorLines, Entries, LineEntries  # noqa: PLC0415
    from mpispec.serve.terminal.remote import COMMANDS, RemoteTalk  # noqa: PLC0415
    from mpispec.serve.terminal.screen import Screen  # noqa: PLC0415

    screen = Screen(sys.stdout)
    is_for_person = os.isatty(_STANDARD_INPUT)
    entries: Entries
    if is_for_person:
        entries = open_entries(_STANDARD_INPUT, screen, COMMANDS)
    else:
        entries = LineEntries(DescriptorLines(_STANDARD_INPUT), screen, prompt="")
    talk = RemoteTalk(remote, entries, screen, model, settings, is_for_person)
    signal.signal(signal.SIGINT, lambda *_: talk.interrupt())
    return {"stopped": USAGE, "interrupt": INTERRUPTED}.get(talk.run(), 0)


def _run(flags: dict[str, Any]) -> int:
    _check_installed()
    from mpispec.serve.terminal.remote import Failed, Place, Remote  # noqa: PLC0415

    settings = {name: flags[name] for name in ("system", "temperature", "seed", "max_tokens")}
    settings = {name: value for name, value in settings.items() if value is not None}
    text = sys.stdin.read() if flags["message"] == "-" else flags["once"]
    if text is not None and not text.strip():
        raise _Refusal("The message is empty; write something.")
    remote = Remote(Place(flags["url"], flags["api_key"]))
    try:
        model = flags["model"] or remote.models()[0]
        return _talk(remote, model, settings) if text is None else _once(remote, model, settings, text.strip())
    except Failed as failed:
        raise _Refusal(str(failed)) from None
    finally:
        remote.close()


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the server listens.")
@click.option("--api-key", envvar=KEY_VARIABLE, help="If the server demands one.")
@click.option("--model", help="The name to ask for. [default: the server's first]")
@click.option("--once", metavar="TEXT", help="Answer this one message and end.")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option("--temperature", type=click.FloatRange(0.0, 2.0), help="[default: the server's]")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="[default: the server's]")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of an answer. [default: the server's]")
@click.argument("message", required=False, type=click.Choice(["-"]))
def chat(**flags: Any) -> None:
    """Chat here with a server, mpispec's or any other that speaks OpenAI's form.

    Input that is no terminal is one message a line; with - it is one message as a whole.
    """
    try:
        code = _run(flags)
    except _Refusal as refusal:
        complain(str(refusal))
        code = USAGE
    sys.exit(code)
