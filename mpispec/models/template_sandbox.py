"""A jinja2 sandbox that counts.

jinja2's immutable sandbox keeps a template from the attributes that lead to code execution, but not from work without
end. So loops, calls and long texts spend steps of a budget, whatever could make much of little is measured first, and
lists are weighed as they are made. A list of lists of one list takes little memory and, written out, all there is.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import functools
import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SOURCE = 1 << 20
"""Characters of a template."""
MAX_TEXT = 8 << 20
"""Characters of a text; the text of a million tokens has about half as many."""
MAX_WEIGHT = 4 * MAX_TEXT
"""Characters of a list written out with all that is in it, about."""
MAX_STEPS = 200_000
"""Loop steps and calls of one rendering; a text that is made counts as a step for each `_STEP_LENGTH` characters."""
MAX_NUMBER = 1 << 20
"""Largest number that a template may pass to a call."""
_GROWING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap")
_BLIND_METHODS = ("expandtabs", "translate")
"""Make much of little, and no chat needs them."""
_STEP_LENGTH = 1024
_STEP_ITEMS = 64
_ITEM_WEIGHT = 128
"""Characters as which an item of a list counts beside its text; so a list has at most a quarter of a million items."""
_CONTAINERS = (list, tuple, set, frozenset, dict, KeysView, ValuesView, ItemsView)
_MOST_WIDTH = 10_000
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})|\{[^}]*\d{5}|\{[\w.\[\]]*:[^{}]*\{")
"""A width of `_MOST_WIDTH` or more, or one that is given as an argument."""

_steps_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("steps_left")


class Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class Excess(jinja2.TemplateError):
    """The template wants more steps or longer texts than it may have."""


class _Compiler(CodeGenerator):
    """Has the environment measure what a template makes without a call."""

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802  the name is jinja2's
        """Write code for a list."""
        self._measure(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        """Write code for a dictionary."""
        self._measure(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        """Write code for a tuple, unless it is one of names to assign to."""
        if node.ctx == "load":
            self._measure(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        """Write code for an item or a slice."""
        if isinstance(node.arg, nodes.Slice):
            self._measure(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Write code for what `~` joins."""
        self.write("concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def _measure(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.measured(")
        visit(node, frame)
        self.write(")")


class _Namespace(Namespace):
    """A namespace that does not write out what it holds, for it may hold itself twice."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox with the helpers that chat templates expect of Hugging Face's renderer."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Compiler

    def __init__(self) -> None:
        """Make the environment; templates cannot change it."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.filters.update(tojson=_to_json, sum=_of_numbers(self.filters["sum"]))
        self.filters.update({name: _bounded(self.filters[name]) for name in _GROWING_FILTERS})
        self.filters.update({name: _measuring(each) for name, each in self.filters.items()})
        self.filters["mpispec_counted"] = _counted
        del self.filters["pprint"]  # indents without bounds
        del self.globals["lipsum"]  # writes as many words as it is told to
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace)
        self.concat = joined  # type: ignore[method-assign]  # what blocks and macros write is joined by it
        self.measured = _measured

    def load(self, source: str) -> jinja2.Template:
        """Compile a template with counters in it. Raises whatever the template provokes."""
        if len(source) > MAX_SOURCE:
            raise Excess(f"it is longer than {MAX_SOURCE} characters")
        tree = self.parse(source)
        _count_loops(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `__obj` if that is safe and cheap."""
        _spend()
        bound = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped by the sandbox
        owner, name = getattr(bound, "__self__", None), getattr(bound, "__name__", "")
        if isinstance(owner, str):
            if name in _BLIND_METHODS:
                raise Excess(f"it calls {name}")
            args = _settled(args)
        _check_arguments([owner, *args, *kwargs.values()])
        if name.startswith("format"):
            _check_format(owner, (args, kwargs))
        return _measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an intercepted operator if the result is of bearable size."""
        if operator == "**" and (abs(left) > MAX_NUMBER or abs(right) > 64):
            raise Excess("it computes too large a power")
        if operator == "%":
            _check_format(left, right)
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
    _spend(length // _STEP_LENGTH)
    return "".join(found)


def _count_loops(tree: nodes.Template) -> None:
    """Count the steps of every loop."""
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "mpispec_counted", [], [], None, None)


def _counted(items: Iterable[Any]) -> Iterable[Any]:
    # A list, because loops ask for the length and the neighbours of what they run over.
    return list(_spending(items))


def _spending(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


def _spend(steps: int = 1) -> None:
    left = _steps_left.get()
    left[0] -= steps
    if left[0] < 0:
        raise Excess(f"it takes more than {MAX_STEPS} steps")


def _measured(value: Any) -> Any:
    """Return a value; refuses long texts, and lists and their like that would be long if they were written out."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise Excess(f"it builds a text of more than {MAX_TEXT} characters")
        _spend(len(value) // _STEP_LENGTH)
    elif isinstance(value, _CONTAINERS):
        _weight(value)
    return value


def _weight(value: Any) -> int:
    """Return about how many characters a value has when it is written out. Raises Excess."""
    weight = visited = 0
    todo = [value]
    while todo:
        item = todo.pop()
        visited += 1
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, _CONTAINERS):
            weight += len(item) * _ITEM_WEIGHT * (1 + isinstance(item, dict))
        if weight > MAX_WEIGHT:
            raise Excess(f"it builds a list of more than {MAX_WEIGHT} characters")
        if isinstance(item, _CONTAINERS):
            todo += item
            todo += item.values() if isinstance(item, dict) else ()
    _spend(visited // _STEP_ITEMS)
    return weight


def _is_long(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _size(value: Any) -> float:
    return len(value) if _is_long(value) else abs(value)


def _check_format(form: Any, values: Any) -> None:
    if not isinstance(form, str):
        return
    if _WIDE_FORMAT.search(form):
        raise Excess("it formats a text of unbounded width")
    if (form.count("%") + form.count("{")) * (_weight(values) + _MOST_WIDTH) > MAX_WEIGHT:
        raise Excess("it fills a text in beyond all bounds")


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    if (str(text).count("\n") + 1) * _size(width) > MAX_TEXT:
        raise Excess("it indents beyond all bounds")


def _check_arguments(values: list[Any]) -> None:
    """Refuse numbers and pairs of texts from which a call could make a text without bounds."""
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
        raise Excess(f"it counts beyond {MAX_NUMBER}")
    long = [value for value in values if _is_long(value)]
    if len(long) > 1 and len(long[0]) * max(map(len, long[1:])) > MAX_TEXT * 4:
        raise Excess("it joins or replaces beyond all bounds")


def _settled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with lists for what has no length yet."""
    return tuple(_measured(list(_spending(arg))) if isinstance(arg, Iterator) else arg for arg in args)


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter that can make much of little."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spend()
        args = _settled(args)
        _check_arguments([*args, *kwargs.values()])
        if function.__name__ == "do_format":
            _check_format(args[0], (args[1:], kwargs))
        if function.__name__ == "do_indent":
            _check_indent(*args, **kwargs)
        return function(*args, **kwargs)

    return bounded


def _measuring(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that what it makes is measured."""

    @functools.wraps(function)
    def measuring(*args: Any, **kwargs: Any) -> Any:
        return _measured(function(*args, **kwargs))

    return measuring


def _of_numbers(total: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the filter `sum`, which would make a list as long as all lists together."""

    @functools.wraps(total)
    def of_numbers(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        if not isinstance(start, (int, float)):
            raise Excess("it adds up what are no numbers")
        return total(environment, iterable, attribute, start)

    return of_numbers


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
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return joined(encoder.iterencode(value))  # piece by piece, for indented depths are long as well
