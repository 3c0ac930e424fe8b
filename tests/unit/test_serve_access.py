"""Where the server listens and who may talk to it."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fake import DEADLINE, FakeEngine, make_service, serving

from mpispec.serve.http.address import Access, ServeError, bind, find_access, is_loopback
from mpispec.serve.http.connection import KEEP_SECONDS
from mpispec.serve.http.guard import read_hostname
from mpispec.serve.http.server import Server

pytestmark = pytest.mark.unit


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=DEADLINE, trust_env=False)


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_loopback_hosts_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "127.0.0.1.example.com", "127.1.x"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("authority", "host"),
    [("localhost:80", "localhost"), ("[::1]:80", "::1"), ("a@b:1", "b"), ("", ""), ("[x", ""), ("h:port", "h")],
)
def test_an_authority_has_a_hostname(authority: str, host: str) -> None:
    assert read_hostname(authority) == host


def test_a_key_is_needed_where_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(host: str, key: str | None) -> frozenset[str]:
        return find_access(host, key, None, ()).keys

    monkeypatch.delenv("MPISPEC_API_KEY", raising=False)
    assert keys("127.0.0.1", None) == frozenset()
    assert keys("0.0.0.0", "secret") == {"secret"}
    with pytest.raises(ServeError, match="--api-key"):
        keys("0.0.0.0", None)
    monkeypatch.setenv("MPISPEC_API_KEY", "")
    with pytest.raises(ServeError):
        keys("example.com", "")
    monkeypatch.setenv("MPISPEC_API_KEY", "from the environment")
    assert keys("0.0.0.0", None) == {"from the environment"}


def test_keys_come_from_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISPEC_API_KEY", raising=False)
    file = tmp_path / "keys"
    file.write_text("# for Ann\nalpha\n\n  beta \n")
    assert find_access("0.0.0.0", "gamma", file, ()).keys == {"alpha", "beta", "gamma"}
    file.write_text("# nobody\n")
    with pytest.raises(ServeError, match="holds no key"):
        find_access("0.0.0.0", "gamma", file, ())
    with pytest.raises(ServeError, match="cannot be read"):
        find_access("0.0.0.0", None, tmp_path / "missing", ())


def test_all_web_pages_are_let_in_with_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISPEC_API_KEY", raising=False)
    with pytest.raises(ServeError, match="every web page"):
        find_access("127.0.0.1", None, None, ("*",))
    assert find_access("127.0.0.1", "secret", None, ("*",)).origins == ("*",)


def test_a_server_refuses_an_open_socket_without_a_key() -> None:
    engine = FakeEngine()
    with closing(bind("0.0.0.0", 0)) as listener, pytest.raises(ServeError, match="needs a key"):
        Server(make_service(engine), listener, Access())
    engine.join()


def test_a_port_in_use_is_refused() -> None:
    with closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


def test_a_port_that_just_served_is_free_again() -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        get(f"{url}/health")
    bind("127.0.0.1", int(url.rpartition(":")[2])).close()


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("127.0.0.1", 65536, "no port 65536"),
        ("127.0.0.1", -1, "no port -1"),
        ("no.such.host.invalid", 0, "cannot be found"),
        ("a" * 70, 0, "cannot be found"),
        ("192.0.2.1", 0, "not an address of this machine"),
    ],
)
def test_an_impossible_address_is_refused(host: str, port: int, sentence: str) -> None:
    with pytest.raises(ServeError, match=sentence):
        bind(host, port)


def test_a_port_without_the_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ServeError, match="above 1023"):
        bind("127.0.0.1", 80)


def test_only_the_right_key_is_let_in() -> None:
    with serving(FakeEngine(), key="schlüssel") as url:
        models = f"{url}/v1/models"
        for headers in [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic schlüssel"}]:
            refused = httpx.get(models, headers={k: v.encode() for k, v in headers.items()}, trust_env=False)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
        for right in ({"Authorization": "Bearer schlüssel".encode()}, {"x-api-key": "schlüssel".encode()}):
            assert httpx.get(models, headers=right, trust_env=False).status_code == 200
        assert get(f"{url}/health").status_code == 200
        assert get(f"{url}/health", Host="proxy.example.com").status_code == 200


def test_strange_web_pages_are_kept_out() -> None:
    with serving(FakeEngine()) as url:
        health = f"{url}/health"
        for host in ["localhost", "localhost:9999", "127.0.0.1", "[::1]:8080"]:
            assert get(health, Host=host).status_code == 200
        for host in ["evil.example.com", "127.0.0.1.evil.example.com:8080", "10.0.0.1", ""]:
            assert get(health, Host=host).json()["error"]["code"] == "bad_host"
        assert get(health, Origin="http://localhost:3000").status_code == 200
        for origin in ["https://evil.example.com", "null", "http://localhost.evil.example.com"]:
            assert get(health, Origin=origin).json()["error"]["code"] == "bad_origin"


FRIEND = "app://obsidian.md"
ASKING = {"Origin": FRIEND, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("key", [None, "secret"])
def test_a_browser_may_ask_first_for_pages_that_are_named(key: str | None) -> None:
    with serving(FakeEngine(), key=key, origins=(FRIEND,)) as url:
        chat = f"{url}/v1/chat/completions"
        asked = httpx.options(chat, headers=ASKING, trust_env=False)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == FRIEND
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        sent = {"Origin": FRIEND, "Authorization": f"Bearer {key}"}
        answer = httpx.post(chat, headers=sent, json={"messages": []}, trust_env=False)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (400, FRIEND)
        stranger = httpx.options(chat, headers={**ASKING, "Origin": "https://evil.example.com"}, trust_env=False)
        assert stranger.status_code == 400
        assert "access-control-allow-origin" not in stranger.headers


def test_the_way_round_the_checks_is_told() -> None:
    with serving(FakeEngine()) as url:
        assert "--api-key" in get(f"{url}/health", Host="box.example.ts.net").json()["error"]["message"]
        assert "--cors-origin" in get(f"{url}/health", Origin="https://x.example").json()["error"]["message"]
        asked = httpx.options(f"{url}/v1/models", headers={"Origin": "http://localhost:3000"}, trust_env=False)
        assert "--cors-origin" in asked.json()["error"]["message"], "a page of this machine that a browser asks for"


def test_a_connection_that_is_kept_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.connection.MOST_CONNECTIONS", 6)
    with serving(FakeEngine()) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        connections = [stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(5)]
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while b'"ok"' not in answer:
                answer += connection.recv(4096) or pytest.fail("closed too early")
        assert get(f"{url}/health").status_code == 200
        assert connections[0].recv(4096) == b""
        connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connections[-1].recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("body", [b'{"prompt": "hi"}', iter([b'{"prompt"', b': "hi"}'])], ids=["whole", "chunked"])
def test_an_offer_of_http_2_leaves_the_chat_alone(caplog: pytest.LogCaptureFixture, body: Any) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQBAAAAAAIAAAAA"}
    with serving(FakeEngine()) as url:
        said = httpx.post(f"{url}/v1/completions", headers=offer, content=body, trust_env=False)
    assert said.json()["choices"][0]["text"] == "You said: hi"
    assert caplog.records == []


def test_connections_are_kept_longer_than_clients_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEEP_SECONDS >= 75
    monkeypatch.setattr("mpispec.serve.http.connection.KEEP_SECONDS", 0.1)  # and it is this number that counts
    with serving(FakeEngine()) as url, closing(socket.socket()) as connection:
        connection.settimeout(4)  # uvicorn's own number is 5
        connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert b'"ok"' in answer


def test_ipv6_is_served() -> None:
    try:
        listener = bind("::1", 0)
    except ServeError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    engine = FakeEngine()
    server = Server(make_service(engine), listener, Access())
    server.start()
    assert get(f"{server.url}/health").status_code == 200
    engine.join()
    server.stop()
    server.stop()


def test_a_malformed_request_line_does_not_end_the_server() -> None:
    with serving(FakeEngine()) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, DEADLINE) as connection:
            connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            assert b"400" in connection.recv(4096)
        assert get(f"{url}/health").status_code == 200
