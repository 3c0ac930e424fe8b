"""The page at / and its files, and what a stream says of its tokens for it; tests/browser looks at it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fake import DEADLINE, FakeEngine, connected, make_service, serving

import mpispec.serve.http
from mpispec.core.effects import Origin
from mpispec.core.ids import Token
from mpispec.core.tree import BY_DRAFT, BY_HEAD
from mpispec.runtime.engine import Generation, Progress

pytestmark = pytest.mark.unit

FOLDER = Path(mpispec.serve.http.__file__).parent / "page"
FILES = sorted(FOLDER.iterdir())
FILE_LINES = 400


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with connected(FakeEngine()) as client:
        yield client


def test_the_page_is_at_the_root(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_served_and_small(client: httpx.Client, file: Path) -> None:
    served = client.get(f"/page/{file.name}")
    assert served.status_code == 200
    assert served.content == file.read_bytes()
    assert len(file.read_text().splitlines()) <= FILE_LINES


def test_nothing_of_the_page_is_elsewhere() -> None:
    """All that it loads and imports is a file of its own, so it works without any other network."""
    names = {file.name for file in FILES}
    for file in FILES:
        text = file.read_text()
        loaded = re.findall(r'(?:src|href)="([^"#]+)"', text) if file.suffix == ".html" else []
        imported = re.findall(r'^import .* from "([^"]+)";$', text, re.MULTILINE) if file.suffix == ".js" else []
        assert {path.rpartition("/")[2] for path in (*loaded, *imported)} <= names, file.name
        assert all(path.startswith(("/page/", "./")) for path in (*loaded, *imported)), file.name
        assert not re.search(r"@import|url\(", text) or file.suffix != ".css", file.name


def test_text_never_becomes_markup() -> None:
    dangerous = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser|new Function")
    for file in FILES:
        assert not dangerous.search(file.read_text()), file.name


def test_the_policy_lets_in_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/page/app.js"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == "'none'"
        assert set(policy.values()) <= {"'self'", "'none'"}
        assert headers["x-content-type-options"] == "nosniff"


def test_a_file_that_is_known_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/page/app.js", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/page/none.js", "/page/", "/page/../page_files.py", "/page/%2e%2e/page_files.py"])
def test_other_paths_are_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_needs_no_key_and_what_it_shows_does() -> None:
    with serving(FakeEngine(), key="secret") as url:

        def status(path: str) -> int:
            return httpx.get(url + path, timeout=DEADLINE, trust_env=False).status_code

        assert [status(path) for path in ("/", "/page/app.js")] == [200, 200]
        assert [status(path) for path in ("/stats", "/v1/models", "/pages", "//stats")] == [401] * 4


class TracedEngine(FakeEngine):
    """Says that an n-gram drafted every other token, and that the last of the others rejected two of the draft's."""

    def submit(self, generation: Generation, listener: Callable[[Progress], None]) -> int:
        origins = itertools.cycle([Origin(0, (Token(ord("n")), Token(ord("o")))), Origin(BY_HEAD | BY_DRAFT)])

        def listen(progress: Progress) -> None:
            found = tuple(itertools.islice(origins, len(progress.tokens))) if generation.is_traced else ()
            listener(Progress(progress.tokens, progress.finish, progress.when, found))

        return super().submit(generation, listen)


def stream(text: str, path: str = "/v1/chat/completions", **options: bool) -> list[dict[str, Any]]:
    """Ask; return the chunks of the stream that bring text."""
    engine = TracedEngine()
    with connected(engine, make_service(engine)) as client:
        body = {"messages": [{"role": "user", "content": text}], "prompt": text, "stream": True}
        answer = client.post(path, json={**body, "stream_options": options})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return [event for event in events if text_of(event)]


def text_of(event: dict[str, Any]) -> str:
    choice = event["choices"][0]
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_says_who_drafted_its_tokens(path: str) -> None:
    events = stream("write:abc", path, include_drafts=True)
    assert [(text_of(event), event["mpispec"]["tokens"]) for event in events[:3]] == [
        ("a", [{"drafted_by": [], "rejected": "no"}]),
        ("b", [{"drafted_by": ["ngram", "draft"], "rejected": ""}]),
        ("c", [{"drafted_by": [], "rejected": "no"}]),
    ]


def test_a_character_of_several_tokens_has_all_of_them() -> None:
    events = stream("write:aé", include_drafts=True)
    assert [(text_of(event), len(event["mpispec"]["tokens"])) for event in events] == [("a", 1), ("é", 2)]


def test_a_stream_says_nothing_of_it_unasked() -> None:
    events = stream("write:abcdef")
    assert [text_of(event) for event in events] == ["a", "bcd", "ef"]
    assert not any("mpispec" in event for event in events)
