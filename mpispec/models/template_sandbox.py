"""A jinja2 sandbox that counts.

jinja2's immutable sandbox keeps a template from the attributes that lead to code execution, but not from work without
end. So loops and calls spend steps of a budget, and whatever could make much of little is measured first.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SOURCE = 1 << 20
"""Characters of a template."""
MAX_TEXT = 8 << 20
"""Characters of a text, or elements of a list; the text of a million tokens has about half as many."""
MAX_STEPS = 200_000
"""Loop steps and calls of one rendering."""
MAX_NUMBER = 1 << 20
"""Largest number that a template may pass to a call."""
_GROWING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap")
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})|\{[^}]*\d{5}")

_steps_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("steps_left")


class Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class Excess(jinja2.TemplateError):
    """The template wants more steps or longer texts than it may have."""


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox with the helpers that chat templates expect of Hugging Face's renderer."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        """Make the environment; templates cannot change it."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.filters.update(tojson=_to_json, mpispec_counted=_counted, mpispec_measured=_measured)
        self.filters.update({name: _bounded(self.filters[name]) for name in _GROWING_FILTERS})
        del self.globals["lipsum"]  # writes as many words as it is told to
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def load(self, source: str) -> jinja2.Template:
        """Compile a template with counters in it. Raises whatever the template provokes."""
        if len(source) > MAX_SOURCE:
            raise Excess(f"it is longer than {MAX_SOURCE} characters")
        tree = self.parse(source)
        _instrument(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `__obj` if that is safe and cheap."""
        _spend()
        bound = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped by the sandbox
        owner = getattr(bound, "__self__", None)
        _check_arguments([owner, *args, *kwargs.values()])
        if getattr(bound, "__name__", "").startswith("format"):
            _check_format(owner)
        return _measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an intercepted operator if the result is of bearable size."""
        if operator == "**" and (abs(left) > MAX_NUMBER or abs(right) > 64):
            raise Excess("it computes too large a power")
        if operator == "%":
            _check_format(left)
        if operator == "*" and (_is_long(left) or _is_long(right)) and _size(left) * _size(right) > MAX_TEXT:
            raise Excess("it repeats a text beyond all bounds")
        result = _measured(super().call_binop(context, operator, left, right))
        if isinstance(result, int) and abs(result) > 1 << 64:
            raise Excess("it computes too large a number")
        return result


class _Generation(Extension):
    """`{% generation %}` marks a model's own words for training; here its body is all there is."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@contextlib.contextmanager
def budget() -> Iterator[None]:
    """Give the rendering inside a new budget of steps."""
    token = _steps_left.set([MAX_STEPS])
    try:
        yield
    finally:
        _steps_left.reset(token)


def joined(pieces: Iterable[str]) -> str:
    """Join what a template writes, as long as it is bearable. Raises Excess."""
    found: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_TEXT:
            raise Excess(f"it writes more than {MAX_TEXT} characters")
        found.append(piece)
    return "".join(found)


def _instrument(tree: nodes.Template) -> None:
    """Count the steps of every loop and measure every joined text."""
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "mpispec_counted", [], [], None, None)
    for parent in list(tree.find_all(nodes.Node)):
        for field, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(parent, field, nodes.Filter(value, "mpispec_measured", [], [], None, None))


def _counted(items: Iterable[Any]) -> Iterable[Any]:
    # A list, because loops ask for the length and the neighbours of what they run over.
    return list(_spending(items))


def _spending(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


def _spend() -> None:
    left = _steps_left.get()
    left[0] -= 1
    if left[0] < 0:
        raise Excess(f"it takes more than {MAX_STEPS} steps")


def _measured(value: Any) -> Any:
    if _is_long(value) and len(value) > MAX_TEXT:
        raise Excess(f"it builds a text of more than {MAX_TEXT} characters")
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _size(value: Any) -> float:
    return len(value) if _is_long(value) else abs(value)


def _check_format(form: Any) -> None:
    if isinstance(form, str) and _WIDE_FORMAT.search(form):
        raise Excess("it formats a text of unbounded width")


def _check_arguments(values: list[Any]) -> None:
    """Refuse numbers and pairs of texts from which a call could make a text without bounds."""
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
        raise Excess(f"it counts beyond {MAX_NUMBER}")
    long = [value for value in values if _is_long(value)]
    if len(long) > 1 and len(long[0]) * max(map(len, long[1:])) > MAX_TEXT * 4:
        raise Excess("it joins or replaces beyond all bounds")


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter that can make much of little."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spend()
        _check_arguments([*args, *kwargs.values()])
        if function.__name__ == "do_format":
            _check_format(args[0])
        return _measured(function(*args, **kwargs))

    return bounded


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not jinja2's own, which escapes for HTML: models were trained on plain JSON.
    if indent is not None and not 0 <= indent <= 16:
        raise Excess("it indents beyond all bounds")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
