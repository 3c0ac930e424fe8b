"""`python serve_alone.py`: a server of its own process whose engine always says the same; prints its address."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import serve_fake

from mpispec.runtime.engine import Generation, Progress
from mpispec.serve.http import connection
from mpispec.serve.http.address import Access, bind
from mpispec.serve.http.server import Server

ANSWER = b"All is well."
HOSTILE = "{% if bomb %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
"""Takes all time there is, if a request wants it."""
_NONE = Generation((1,), 1)


def answer_to(generation: Generation) -> Iterator[int | None]:
    """Say the same whatever the prompt."""
    yield from ANSWER
    yield serve_fake.END


class ForgetfulEngine(serve_fake.FakeEngine):
    """Keeps no prompts, so that what grows is the server's."""

    def submit(self, generation: Generation, listener: Callable[[Progress], None]) -> int:
        request = super().submit(generation, listener)
        self.generations[request - 1] = _NONE
        return request


def main() -> None:
    """Serve until standard input ends."""
    serve_fake.answer_to = answer_to
    connection.HEAD_SECONDS = 1.0
    connection.MOST_CONNECTIONS = 64
    service = serve_fake.make_service(ForgetfulEngine(), template=HOSTILE + serve_fake.TURNS)
    server = Server(service, bind("127.0.0.1", 0), Access())
    server.start()
    print(server.url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
