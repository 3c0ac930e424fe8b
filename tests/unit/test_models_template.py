"""Chat templates: what they expect is there, and what would harm is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mpispec.models import template
from mpispec.models.errors import ModelError
from mpispec.models.template import ChatTemplate, TemplateProcess

pytestmark = pytest.mark.unit

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "5% *a*"},
]


@pytest.fixture(autouse=True, scope="module")
def process() -> Iterator[TemplateProcess]:
    """Render in a process of this module's own, with a tenth of the time, so that those which run away end soon."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(template, "SECONDS", 0.2)
        patched.setattr(template, "MEMORY", 256 << 20)
        patched.setattr(template, "_process", TemplateProcess())
        yield template._process
        template._process.end()


def pid(process: TemplateProcess) -> int:
    """Return the process that rendered last."""
    assert process._process is not None
    return process._process.pid


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
def test_templates_find_what_they_expect(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_template_may_ask_for_the_year() -> None:
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_without_a_template_chatml_is_used_and_said() -> None:
    template = ChatTemplate(None)
    assert template.render(CHAT[:1]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(CHAT[:1], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"
    assert "no chat template" in template.note
    assert ChatTemplate("{{ messages[0].content }}").note == ""


def test_a_template_that_hides_what_the_user_says_is_told_of() -> None:
    template = ChatTemplate("hi")
    assert "does not show what a user says" in template.note
    assert not template.traits.shows_words


@pytest.mark.parametrize(
    ("source", "wants_parts"),
    [
        ("{{ messages[0].content }}", False),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", True),
        ("{% if messages[0].content is string %}{{ messages[0].content }}{% else %}{{ 1 + 'a' }}{% endif %}", False),
    ],
)
def test_the_form_of_content_is_found_out(source: str, wants_parts: bool) -> None:
    assert ChatTemplate(source).traits.wants_parts is wants_parts


def test_a_template_may_refuse_a_chat() -> None:
    with pytest.raises(ModelError, match=r"refuses these messages: roles must alternate\."):
        render("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ModelError, match=r"messages: \[2Jno\."):
        render("{{ raise_exception('\x1b[2Jno') }}")


DOUBLE = (
    "{%% set ns = namespace(x='aaaaaaaa') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
)
NESTED = "{% set x = [1] * 1000 %}{% set x = [x] * 1000 %}{% set x = [x] * 1000 %}"
LONG = "{% set b = 'a' * 8000000 %}"
SANDBOX = r"is unsafe|no loader|sandbox blocks ranges"
TIME = r"it takes more than 0\.2 s"
MEMORY = r"MemoryError"
EITHER = f"{TIME}|{MEMORY}"
TEXT = r"it writes more than 8388608 characters"
PYTHON = r"."
HOSTILE = {
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", SANDBOX),
    "globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", SANDBOX),
    "function globals": ("{{ raise_exception.__globals__.os }}", SANDBOX),
    "format string": ("{{ '{0.__class__.__mro__}'.format('') }}", SANDBOX),
    "attribute filter": ("{{ ('' | attr('__class__')).__mro__ }}", SANDBOX),
    "changing the chat": ("{{ messages.append(1) }}", SANDBOX),
    "files": ("{% include '/etc/passwd' %}", SANDBOX),
    "long range": ("{{ range(10000000) | list }}", SANDBOX),
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "exponential macros": (
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        TIME,
    ),
    "squaring": (DOUBLE.replace("'aaaaaaaa'", "3") % "ns.x * ns.x", TIME),
    "power": ("{{ 9 ** (9 ** 9) }}", TIME),
    "lipsum": ("{{ lipsum(n=1000000) }}", EITHER),
    "doubling by ~": (DOUBLE % "ns.x ~ ns.x", EITHER),
    "doubling by +": (DOUBLE % "ns.x + ns.x", EITHER),
    "doubling lists": (DOUBLE % "[ns.x, ns.x]", EITHER),
    "doubling dictionaries": (DOUBLE % "{'a': ns.x, 'b': ns.x}", EITHER),
    "doubling namespaces": (DOUBLE % "namespace(a=ns.x, b=ns.x)", EITHER),
    "nested lists": (NESTED + "{{ x }}", EITHER),
    "nested lists as json": (NESTED + "{{ x | tojson }}", EITHER),
    "list of texts": (LONG + "{{ [b] * 4000 }}", EITHER),
    "sum of lists": ("{{ ([[1] * 1000] * 100000) | sum(start=[]) | length }}", EITHER),
    "many texts": (LONG + "".join(f"{{% set a{i} = b ~ {i} %}}" for i in range(4000)), EITHER),
    "one long ~": (LONG + "{{ (b" + " ~ b" * 4000 + ") | length }}", EITHER),
    "join": ("{{ (('a' * 1000000) | list) | join('b' * 1000000) }}", EITHER),
    "join of a stream": (LONG + "{{ ([{}] * 4000) | map(attribute='x', default=b) | join | length }}", EITHER),
    "replace": ("{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}", EITHER),
    "translate": ("{{ ('a' * 1000000).translate({97: 'b' * 1000000}) | length }}", EITHER),
    "json": ("{{ messages | tojson(indent=100000000) }}", EITHER),
    "captured output": (LONG + "{% set c %}{% for i in range(4000) %}{{ b }}{% endfor %}{% endset %}", EITHER),
    "many fields": (LONG + "{{ ('" + "%(a)s" * 4000 + "' % {'a': b}) | length }}", EITHER),
    "indented lines": ("{{ ('a\n' * 100000) | indent(1000000) | length }}", EITHER),
    "text times number": ("{{ 'a' * 10000000000 }}", MEMORY),
    "list times number": ("{{ [1] * 10000000000 }}", MEMORY),
    "width as an argument": ("{{ '{0:{1}}'.format(1, 10000000000) }}", MEMORY),
    "center filter": ("{{ 'a' | center(10000000000) }}", MEMORY),
    "center method": ("{{ 'a'.center(10000000000) }}", MEMORY),
    "zfill": ("{{ 'a'.zfill(10000000000) }}", MEMORY),
    "indent": ("{{ 'a\n' | indent(10000000000) }}", MEMORY),
    "percent": ("{{ '%10000000000d' % 1 }}", MEMORY),
    "percent star": ("{{ '%*d' % (10000000000, 1) }}", MEMORY),
    "format method": ("{{ '{:10000000000}'.format(1) }}", MEMORY),
    "format filter": ("{{ '%10000000000d' | format(1) }}", MEMORY),
    "tabs": ("{{ ('\t' * 100000).expandtabs(1000000) | length }}", MEMORY),
    "long text": ("{{ 'a' * 8388609 }}", TEXT),
    "json in depth": ("{% set x = [1] * 10000 %}{{ " + "[" * 60 + "x" + "]" * 60 + " | tojson(indent=16) }}", TEXT),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", PYTHON),
    "recursive loop": ("{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}", PYTHON),
    "syntax": ("{% for", PYTHON),
    "deep": ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", PYTHON),
    "nested blocks": ("{% for x in [1] %}" * 25 + "{% endfor %}" * 25, PYTHON),
    "long number": ("{{ " + "9" * 5000 + " }}", PYTHON),
    "wrong types": ("{{ messages[9].content.foo }}", PYTHON),
    "no attribute": ("{{ 1.nothing.at_all }}", PYTHON),
}
ENDLESS = HOSTILE["power"][0]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_one_sentence(name: str) -> None:
    source, reason = HOSTILE[name]
    sentence = rf"^The model's chat template (is unusable|fails) \(.*({reason}).*\); prompt without it\.$"
    with pytest.raises(ModelError, match=sentence) as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_the_process_is_kept_and_one_that_ran_away_is_replaced(process: TemplateProcess) -> None:
    chat = ChatTemplate("{{ messages[0].content }}")
    first = pid(process)
    assert chat.render(CHAT) == "Hi"
    assert pid(process) == first
    with pytest.raises(ModelError, match=TIME):
        render(ENDLESS)
    assert chat.render(CHAT) == "Hi"
    assert pid(process) != first


def test_a_process_that_was_killed_is_replaced(process: TemplateProcess) -> None:
    chat = ChatTemplate("{{ messages[0].content }}")
    os.kill(pid(process), signal.SIGKILL)
    os.waitid(os.P_PID, pid(process), os.WEXITED | os.WNOWAIT)
    assert chat.render(CHAT) == "Hi"


def test_an_interrupted_rendering_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 20.0)
    monkeypatch.setattr(template, "_process", TemplateProcess())
    chat = ChatTemplate("{% if messages[1] is defined %}{% for i in range(99999) %}{% endfor %}late{% endif %}")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            while True:
                chat.render(CHAT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert chat.render(CHAT[:1]) == ""
    template._process.end()


def test_threads_get_their_own_answers() -> None:
    chat = ChatTemplate("{{ messages[0].content }}")
    texts = [str(n) * 20_000 for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: chat.render([{"role": "user", "content": text}]), texts)) == texts


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_the_process_ends_with_its_parent(end: str) -> None:
    program = (
        "import os\n"
        "from mpispec.models import template\n"
        "template.ChatTemplate('a')\n"
        f"print(template._process._process.pid, flush=True)\n{end}"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    deadline = time.monotonic() + 20
    while b"template_process" in command_line(int(done.stdout)):
        assert time.monotonic() < deadline, "it goes on without its parent"
        time.sleep(0.02)


def command_line(pid: int) -> bytes:
    """Return a process's command line, empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
