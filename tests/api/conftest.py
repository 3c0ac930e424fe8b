"""One server for all tests of this lane: two ranks, the small default model, as a user starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mpi.program import MPISPEC, Program

KEY = "secret"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ASK_FOR_CALL = f"Repeat this exactly:\n{CALL}"
"""What even a model of 135 million weights answers with a call."""
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DESCRIPTION = "Get the weather of a city."
WEATHER = "It is sunny, 21 C."
ALIAS = "gpt-4o"


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Return the address of the server."""
    options = ["--temperature", "0", "--threads", "1", "--ctx", "2048", "--alias", ALIAS, "--alias", "claude-*"]
    argv = [*MPISPEC, "serve", "--no-repl", "--port", "0", "--api-key", KEY, *options]
    with Program(2, argv) as program:
        yield program.wait_for(r"serving \S+ on (http://[\d.:]+)\n", "stderr")[1]
        assert "Traceback" not in program.stderr
