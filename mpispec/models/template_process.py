"""Render chat templates, in a process of its own that mpispec.models.template starts by this file's path.

A template is a program from a stranger's file (CVE-2024-34359). jinja2's sandbox keeps it from files and attributes
that lead to code; the limits of this process keep it from taking all time and memory. Each line of standard input is a
request, each line of standard output its answer. The process ends when its standard input does.
"""

from __future__ import annotations

import datetime
import functools
import json
import resource
import signal
import sys
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 8 << 20
"""Characters of a prompt; the text of a million tokens has about half as many."""


class Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class Generation(Extension):
    """`{% generation %}` marks a model's own words for training; here its body is all there is."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Not jinja2's own, which escapes for HTML: models were trained on plain JSON.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@functools.lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """Return a template, with the settings and helpers of Hugging Face's apply_chat_template."""
    extensions = [loopcontrols, Generation]
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    sandbox.filters["tojson"] = _tojson
    sandbox.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return sandbox.from_string(source)


def answer(source: str, names: dict[str, Any] | None) -> tuple[str, str]:
    """Return `text` and what a template writes (nothing without names), or `refuses` or `fails` and the reason."""
    try:
        template = compiled(source)
        text = "" if names is None else template.render(names)
    except Exception as error:  # a template can provoke any error that Python has
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return "refuses" if isinstance(error, Refused) else "fails", reason
    return ("text", text) if len(text) <= MAX_TEXT else ("fails", f"it writes more than {MAX_TEXT} characters")


def main(seconds: str, memory: str) -> None:
    """Answer requests until there are no more; die of SIGPROF where one takes more than `seconds` of CPU time."""
    for kind, most in ((resource.RLIMIT_AS, int(memory)), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a handler of Python's would wait for the end of a long operation
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, float(seconds))
        found = json.dumps(answer(**json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(found + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
