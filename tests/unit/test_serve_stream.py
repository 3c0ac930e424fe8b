"""A stream on the wire: chunks for those who know them, and events that all say the same things."""

from __future__ import annotations

import json
import socket

import pytest
from serve_fake import DEADLINE, FakeEngine, serving

from mpispec.serve.api.answers import ChatAnswer, TextAnswer
from mpispec.serve.text.turn import Mark, Said

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_stream_has_chunks_for_those_who_know_them(version: bytes) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/%s\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with (
        serving(FakeEngine()) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), DEADLINE) as connection,
    ):
        connection.sendall(head % (version, len(body)) + body)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    fields, _, text = answer.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in fields.lower()) == (version == b"1.1")
    read = b""
    while version == b"1.1" and text:
        length, _, rest = text.partition(b"\r\n")
        size = int(length, 16)
        read, text = read + rest[:size], rest[size:].removeprefix(b"\r\n")
    events = (read or text).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    choices = [json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2]]
    assert "".join(choice["delta"].get("content", "") for [choice] in choices) == "You said: hi"


@pytest.mark.parametrize("text", ["a", '"\\\n\x01\0é🙂', "\0text\0", ""])
@pytest.mark.parametrize("form", [TextAnswer, ChatAnswer])
def test_texts_are_said_as_everything_else_is(form: type[TextAnswer], text: str) -> None:
    answer = form("toy", 1)
    for index in (0, 1, 0):
        [event] = answer.chunk(index, Said(text))
        [marked] = answer.chunk(index, Said(text, (Mark(()),)))
        told = json.loads(marked.removeprefix("data: "))
        del told["mpispec"]
        assert json.loads(event.removeprefix("data: ")) == told
