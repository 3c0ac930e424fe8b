"""What a server does to be safe beyond this machine: names, certificates, limits, and an end in order."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from serve_fake import DEADLINE, FakeEngine, make_service, serving

from mpispec.runtime.engine import Generation, Progress
from mpispec.serve.http.address import Access, ServeError, bind, find_access
from mpispec.serve.http.server import Server
from mpispec.serve.http.tls import find_tls

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def door(engine: FakeEngine, access: Access, listener: socket.socket | None = None) -> Iterator[Server]:
    """Serve an engine to whom `access` lets in."""
    server = Server(make_service(engine), listener or bind("127.0.0.1", 0), access)
    server.start()
    try:
        yield server
    finally:
        engine.join()
        server.stop()


def client_of(server: Server, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=DEADLINE, trust_env=False, **options)


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), DEADLINE)


def read_to_end(connection: socket.socket) -> bytes:
    """Return what still comes; a connection may be reset too."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [frozenset[str](), frozenset({"secret"})])
def test_only_names_that_are_given_are_let_in(keys: frozenset[str]) -> None:
    access = Access(keys, hosts=("box.lan", "*.ts.net"))
    with door(FakeEngine(), access) as server, client_of(server, headers={"x-api-key": "secret"}) as client:
        for host in ("box.lan", "BOX.lan.:80", "a.b.ts.net", "localhost:99", "127.0.0.1", "[::1]"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
        for host in ("evil.example.com", "box.lan.evil.example.com", "ts.net", "10.0.0.1", ""):
            refused = client.get("/v1/models", headers={"Host": host})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "bad_host")
            assert "--allow-host" in refused.json()["error"]["message"]


def test_a_page_of_the_servers_own_may_use_it() -> None:
    with door(FakeEngine(), Access(hosts=("box.lan",))) as server, client_of(server) as client:
        for origin, status in (("http://box.lan:8080", 200), ("http://box.lan:9", 403), ("null", 403)):
            headers = {"Host": "box.lan:8080", "Origin": origin}
            assert client.post(CHAT, headers=headers, json=say("hi")).status_code == status


def test_all_names_are_let_in_with_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISPEC_API_KEY", raising=False)
    with pytest.raises(ServeError, match="by any name, so the server needs a key"):
        find_access("127.0.0.1", None, None, (), ("*",))
    assert find_access("127.0.0.1", None, None, (), ("Box.Lan.",)).hosts == ("box.lan",)


# -- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def write_files(authority: trustme.CA, folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Write a certificate and its key; return their paths."""
    issued = authority.issue_cert(name)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for index, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=bool(index))
    return certificate, key


def test_a_server_talks_tls(authority: trustme.CA, tmp_path: Path) -> None:
    tls = find_tls(*write_files(authority, tmp_path))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with door(FakeEngine(), Access(tls=tls)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        url = server.url.replace("127.0.0.1", "localhost")
        with httpx.Client(base_url=url, verify=trusting, timeout=DEADLINE, trust_env=False) as client:
            assert client.post(CHAT, json=say("hi")).status_code == 200
            assert client.post(CHAT, json=say("hi", stream=True)).text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.TransportError), client_of(server) as stranger:
            stranger.get("/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http{url.removeprefix('https')}/health", timeout=DEADLINE, trust_env=False)


def test_files_that_make_no_certificate_are_refused(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = write_files(authority, tmp_path)
    assert find_tls(None, None) is None
    with pytest.raises(ServeError, match="give --tls-cert and --tls-key"):
        find_tls(certificate, None)
    with pytest.raises(ServeError, match=r"--tls-key .*missing cannot be read \(No such file"):
        find_tls(certificate, tmp_path / "missing")
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = write_files(authority, other)
    with pytest.raises(ServeError, match="name the two files that belong together"):
        find_tls(certificate, foreign)
    (tmp_path / "text").write_text("once upon a time")
    with pytest.raises(ServeError, match="name the two files that belong together"):
        find_tls(tmp_path / "text", key)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (tmp_path / "locked").write_bytes(private.private_bytes(*form, serialization.BestAvailableEncryption(b"word")))
    with pytest.raises(ServeError, match="is encrypted; write it without a password"):
        find_tls(certificate, tmp_path / "locked")


# -- limits ---------------------------------------------------------------------------------------------------------


def test_one_key_cannot_take_all_places() -> None:
    engine = FakeEngine()
    access = Access(frozenset({"a", "b"}), most_open=3, most_open_of_key=2)
    with door(engine, access) as server, client_of(server) as client, ExitStack() as stack:

        def wait(key: str) -> None:
            answer = client.stream("POST", CHAT, json=say("wait", stream=True), headers={"x-api-key": key})
            assert stack.enter_context(answer).status_code == 200

        wait("a")
        wait("a")
        for path, kind in ((CHAT, "invalid_request_error"), ("/v1/messages", "rate_limit_error")):
            refused = client.post(path, json=say("hi", max_tokens=5), headers={"x-api-key": "a"})
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, kind)
            assert int(refused.headers["retry-after"]) > 0
        wait("b")
        full = client.post(CHAT, json=say("hi"), headers={"x-api-key": "b"})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
    assert len(engine.generations) == 3, "what was refused never reached the engine"


def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.connection.MOST_CONNECTIONS", 4)
    with serving(FakeEngine()) as url, ExitStack() as stack:
        held = [stack.enter_context(connect(url)) for _ in range(4)]
        held[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, body = read_answer(held[-1])
        assert (status, body["error"]["code"]) == (503, "too_many_connections")
        assert int(headers["retry-after"]) > 0
        assert headers["connection"] == "close"
        held += [stack.enter_context(connect(url)) for _ in range(6)]
        assert read_to_end(held[-1]) == b"", "there is no room to tell so many"
        for connection in held:
            connection.close()
        with httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as client:
            while client.get("/health").status_code != 200:
                pass


def test_what_is_no_http_gets_an_answer_in_json() -> None:
    with serving(FakeEngine()) as url:
        chunks = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n"
        for noise in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n", chunks):
            with connect(url) as connection:
                connection.sendall(noise)
                status, headers, body = read_answer(connection)
                assert (status, headers["content-type"]) == (400, "application/json")
                assert body["error"]["code"] == "bad_http"


def test_noise_after_an_early_answer_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with serving(FakeEngine(), key="secret") as url, connect(url) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        status, _, _ = read_answer(connection)
        assert status == 401
        connection.sendall(b"no length\r\n")
        assert read_to_end(connection) == b""
        assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_body_that_goes_on_after_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.connection.HEAD_SECONDS", 0.1)
    with serving(FakeEngine(), key="secret") as url, connect(url) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        status, _, _ = read_answer(connection)
        assert status == 401
        assert read_to_end(connection) == b""


def test_a_client_that_takes_nothing_loses_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.connection.STALL_SECONDS", 0.05)
    listener = bind("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with door(FakeEngine(8192), Access(), listener) as server, client_of(server) as client, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(DEADLINE)
        deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        body = json.dumps({"prompt": "forever", "max_tokens": 8000, "stream": True}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        deaf.sendall(head + body)
        while 'finished_reason="abort"} 1.0' not in client.get("/metrics").text:
            pass
        assert b"[DONE]" not in read_to_end(deaf)


# -- the end --------------------------------------------------------------------------------------------------------


class GatedEngine(FakeEngine):
    """Answers when it is let."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        super().__init__()

    def _generate(self, request: int, generation: Generation, listener: Callable[[Progress], None]) -> None:
        assert self.gate.wait(DEADLINE)
        super()._generate(request, generation, listener)


def test_a_server_that_is_to_end_finishes_what_is_open_and_takes_nothing_else() -> None:
    engine = GatedEngine()
    with door(engine, Access()) as server, client_of(server) as client, client_of(server) as kept:
        assert kept.get("/v1/models").status_code == 200
        with client.stream("POST", CHAT, json=say("hi", stream=True)) as answer:
            server.refuse()
            server.refuse()
            health = kept.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "draining"})
            assert kept.get("/metrics").status_code == 200
            for path in (CHAT, "/tokenize"):
                refused = kept.post(path, json=say("hi"))
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
                assert int(refused.headers["retry-after"]) > 0
                assert refused.headers["connection"] == "close"
            engine.gate.set()
            assert list(answer.iter_lines())[-2] == "data: [DONE]"
        server.join(DEADLINE)
        with pytest.raises(httpx.ConnectError):
            kept.get("/health")
    assert len(engine.generations) == 1


def test_a_server_without_open_requests_ends_at_once() -> None:
    with door(FakeEngine(), Access()) as server, client_of(server) as client:
        assert client.get("/health").status_code == 200
        server.refuse()
        server.join(DEADLINE)
        with pytest.raises(httpx.TransportError):
            client.get("/health")
