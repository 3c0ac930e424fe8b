"""The body of a request, within bounds."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from mpispec.serve.errors import ApiError

MAX_BODY = 8 << 20
"""Bytes."""
BODY_SECONDS = 60.0
"""A body that takes longer is given up."""
QUICK_BYTES = 1 << 20
"""What more a body has is taken in no haste: its prompt keeps the ranks busy for far longer, and they share cores."""
SLOW_BYTES_S = 4 << 20
"""Bytes a second."""


async def read_body(http: Request) -> bytes:
    """Return the whole body; raises ApiError 413 beyond MAX_BODY, 408 beyond BODY_SECONDS, 415 where it is packed."""
    packing = http.headers.get("content-encoding", "identity")
    if packing.lower() != "identity":
        sentence = f"The body is packed ({packing[:20]}); send it as it is."
        raise ApiError(415, sentence, code="unsupported_encoding")
    too_large = ApiError(413, f"The body is larger than {MAX_BODY >> 20} MiB.", code="body_too_large")
    if int(http.headers.get("content-length", 0)) > MAX_BODY:
        raise too_large

    async def gather() -> bytes:
        body = bytearray()
        async for part in http.stream():
            body += part
            if len(body) > MAX_BODY:
                raise too_large
            if len(body) > QUICK_BYTES:
                await asyncio.sleep(len(part) / SLOW_BYTES_S)
        return bytes(body)

    try:
        return await asyncio.wait_for(gather(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"The body took longer than {BODY_SECONDS:.0f} s.", code="timeout") from None
