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
        ("{% set n = namespace(x=[]) %}{% for m in messages %}{% set n.x = n.x+[m] %}{% endfor %}{{ n.x|count }}", "3"),
        ("{{ ([messages[0]] + messages[1:]) | length }}{{ [1, 2] | sum }}{{ (1, 'a') }}", "33(1, 'a')"),
        ("{{ ', '.join(messages | map(attribute='role')) }}{{ 'a\nb' | indent(2) }}", "user, assistant, usera\n  b"),
        ("{% set c %}{{ 1 }}!{% endset %}{{ c | upper ~ [c] ~ dict(a=c).items() | list }}", "1!['1!'][('a', '1!')]"),
        ("{% set a, b = 'xy' %}{{ b ~ a }}{{ '{a}{0}'.format(1, a=2) }}{{ '%s%s' % (1, 2) }}", "yx2112"),
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
    with pytest.raises(ModelError, match=r"messages: \[2Jno\."):
        render("{{ raise_exception('\x1b[2Jno') }}")


DOUBLE = "{%% set ns = namespace(x='aaaaaaaa') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}"
NESTED = "{% set x = [1] * 1000 %}{% set x = [x] * 1000 %}{% set x = [x] * 1000 %}"
LONG = "{% set b = 'a' * 8000000 %}"
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
    "many wide fields": "{{ ('%(a)9999d' * 4000) % {'a': 1} }}",
    "width as an argument": "{{ '{0:{1}}{0:{1}}'.format(1, 1000000) }}",
    "pprint": "{{ [[1]] | pprint }}",
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
    "captured output": LONG + "{% set c %}{% for i in range(4000) %}{{ b }}{% endfor %}{% endset %}",
    "captured by a macro": LONG
    + "{% macro m() %}{% for i in range(4000) %}{{ b }}{% endfor %}{% endmacro %}{{ m() | length }}",
    "many texts": LONG + "".join(f"{{% set a{i} = b ~ {i} %}}" for i in range(4000)),
    "one long ~": LONG + "{{ (b" + " ~ b" * 4000 + ") | length }}",
    "sum of lists": "{{ ([[1] * 100] * 100) | sum(start=[]) | length }}",
    "nested lists": NESTED + "{{ x }}",
    "nested lists as json": NESTED + "{{ x | tojson }}",
    "doubling lists": DOUBLE % "[ns.x, ns.x]",
    "doubling tuples": DOUBLE % "(ns.x, ns.x)",
    "doubling dictionaries": DOUBLE % "{'a': ns.x, 'b': ns.x}",
    "doubling calls": DOUBLE % "dict(a=ns.x, b=ns.x)",
    "doubling views": DOUBLE.replace("'aaaaaaaa'", "{}") % "{'a': ns.x.items(), 'b': ns.x.items()}",
    "doubling filters": DOUBLE % "[1] | batch(3, ns.x) | list",
    "list of texts": LONG + "{{ [b] * 4000 }}",
    "json in depth": "{% set x = [1] * 20000 %}{{ " + "[" * 40 + "x" + "]" * 40 + " | tojson(indent=16) }}",
    "join of a stream": LONG + "{{ ([{}] * 4000) | map(attribute='x', default=b) | join | length }}",
    "join method of a stream": LONG + "{{ ''.join(([{}] * 4000) | map(attribute='x', default=b)) | length }}",
    "many fields": LONG + "{{ ('" + "%(a)s" * 4000 + "' % {'a': b}) | length }}",
    "many format fields": LONG + "{{ '" + "{0}" * 4000 + "'.format(b) | length }}",
    "indented lines": "{{ ('a\n' * 100000) | indent(1000000) | length }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(1000000) | length }}",
    "many slices": LONG + "".join(f"{{% set a{i} = b[{i}:] %}}" for i in range(4000)),
    "many filtered texts": LONG + "".join(f"{{% set a{i} = b | upper %}}" for i in range(4000)),
    "translate": "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) | length }}",
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
