"""Chat templates: what they expect is there, and what would harm is not."""

from __future__ import annotations

import pytest

from mpispec.models.errors import ModelError
from mpispec.models.template import ChatTemplate

pytestmark = pytest.mark.unit

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "5% *a*"},
]


def render(source: str) -> str:
    """Render CHAT with a template."""
    return ChatTemplate(source, bos="<s>", eos="</s>").render(CHAT)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{% for m in messages %}\n  {% if loop.last %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}", "5% *a*\n"),
        ("{% for m in [1, 2] %}{% if m == 1 %}{% continue %}{% endif %}{{ loop.index }}{% break %}{% endfor %}", "2"),
        ("{% for m in [1, 2] %}{{ loop.nextitem is defined }}{{ loop.length }}{% endfor %}", "True2False2"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi"}'),
        ("{{ {'ä': [1]} | tojson(indent=1) }}", '{\n "ä": [\n  1\n ]\n}'),
        ("{{ messages[2].content.strip().split('*')[1] ~ '<b>' ~ 7 }}", "a<b>7"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "Ho"),
        ("{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 2 %}{% endfor %}{{ s.n * 3 }}", "18"),
        ("{{ '%02d' | format(7) }}{{ '{:>3}'.format(7) }}{{ '%s' % 'x' }}", "07  7x"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=Hi;"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ 2 ** 3 }}", "[1]8"),
        ("{{ messages | map(attribute='role') | join(',') }}", "user,assistant,user"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}", "Hi5% *a*"),
    ],
)  # fmt: skip
def test_what_templates_expect(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_year() -> None:
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_without_a_template_chatml_is_used_and_said() -> None:
    template = ChatTemplate(None)
    assert template.render(CHAT[:1]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(CHAT[:1], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"
    assert "no chat template" in template.note
    assert ChatTemplate("x").note == ""


def test_a_template_may_refuse_a_chat() -> None:
    with pytest.raises(ModelError, match=r"refuses these messages: roles must alternate\."):
        render("{{ raise_exception('roles must alternate') }}")


DOUBLE = "{%% set ns = namespace(x='aaaaaaaa') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}"
HOSTILE = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "function globals": "{{ raise_exception.__globals__.os }}",
    "format string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "attribute filter": "{{ ('' | attr('__class__')).__mro__ }}",
    "changing the chat": "{{ messages.append(1) }}",
    "files": "{% include '/etc/passwd' %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "exponential macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
    "long range": "{{ range(10000000) | list }}",
    "text times number": "{{ 'a' * 10000000000 }}",
    "list times number": "{{ [1] * 10000000000 }}",
    "doubling by ~": DOUBLE % "ns.x ~ ns.x",
    "doubling by +": DOUBLE % "ns.x + ns.x",
    "squaring": DOUBLE.replace("'aaaaaaaa'", "3") % "ns.x * ns.x",
    "power": "{{ 9 ** 9 ** 9 }}",
    "center filter": "{{ 'a' | center(10000000000) }}",
    "center method": "{{ 'a'.center(10000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "indent": "{{ 'a\n' | indent(10000000000) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10000000000, 1) }}",
    "format method": "{{ '{:10000000000}'.format(1) }}",
    "format filter": "{{ '%10000000000d' | format(1) }}",
    "join": "{{ (('a' * 1000000) | list) | join('b' * 1000000) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "json": "{{ messages | tojson(indent=100000000) }}",
    "output": "{% for x in range(99999) %}{{ messages }}{{ messages }}{{ messages }}{% endfor %}",
    "syntax": "{% for",
    "deep": "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
    "long source": "a" * 2**21,
    "nested blocks": "{% for x in [1] %}" * 25 + "{% endfor %}" * 25,
    "long number": "{{ " + "9" * 5000 + " }}",
    "wrong types": "{{ messages[9].content.foo }}",
    "no attribute": "{{ 1.nothing.at_all }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_one_sentence(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        render(HOSTILE[name])
    assert str(caught.value).startswith("The model's chat template ")
    assert "\n" not in str(caught.value)
