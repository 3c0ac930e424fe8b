"""Server-sent events as a client reads them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx


async def event_data(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Yield the data of each event of a streamed response; comments and other fields are skipped."""
    lines: Any = response.aiter_lines()
    async with aclosing(lines):
        async for line in lines:
            name, _, data = line.partition(":")
            if name == "data" and data.strip():
                yield data.strip()
