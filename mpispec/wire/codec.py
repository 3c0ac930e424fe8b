"""Messages as frames: a fixed prefix, a msgpack header, zeros up to the next multiple of 16, the raw payload.

    prefix   magic "mS", version, flags (bit 0: has a payload), header length, payload length    12 bytes; the first
             three stay where they are in every version, so that two versions can tell each other apart
    header   msgpack array: kind, source actor, destination actor, then the fields of the message in order
    payload  activations as they are; aligned, so that a stage computes on the received bytes without copying them

Lengths are checked before anything is unpacked, msgpack may neither nest nor build maps, strings or extensions, and
there is no pickle anywhere. To add a message, add a line to `_SCHEMAS`; kind numbers are never reused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import msgpack

from mpispec.core.ids import Actor
from mpispec.core.messages import (
    AskWork,
    Cancel,
    Close,
    Credit,
    Draft,
    EarlyDraft,
    Follow,
    Idle,
    Lost,
    Message,
    Open,
    Prime,
    Result,
    Retire,
    Run,
    Stop,
    Work,
)
from mpispec.wire.fields import (
    BRANCHES,
    CACHE_OPS,
    FLAG,
    INT32,
    INT63,
    PARENTS,
    PROB,
    PROBS,
    ROWS,
    RUN_IDS,
    SAMPLING,
    SCORES,
    TOKENS,
    Field,
    LocalProtocolError,
    PeerProtocolError,
)

VERSION = 7
"""Raised whenever a frame of the old form could be misread."""

Buffer = bytes | bytearray | memoryview

_MAGIC = b"mS"
_PREFIX = struct.Struct("<2sBBII")
_HAS_PAYLOAD = 1
_ALIGNMENT = 16
_ZEROS = bytes(_ALIGNMENT)
_ADDRESS_ITEMS = 3
_ONE_BYTE = 128
_LENGTH_MAX = 2**32 - 1


class _Schema(NamedTuple):
    """How one class of messages is written."""

    kind: int
    cls: type[Any]
    packs: tuple[Callable[[Any], Any], ...]
    unpacks: tuple[Callable[[Any], Any], ...]
    values: Callable[[Any], tuple[Any, ...]]
    """Reads all fields of a message at once."""


def _schema(kind: int, cls: type[Any], **fields: Field) -> _Schema:
    names = tuple(fields)
    packs = tuple(field.pack for field in fields.values())
    unpacks = tuple(field.unpack for field in fields.values())
    if len(names) > 1:
        return _Schema(kind, cls, packs, unpacks, attrgetter(*names))
    return _Schema(kind, cls, packs, unpacks, lambda message: tuple(getattr(message, name) for name in names))


_SCHEMAS = (
    _schema(0, Open, request=INT32, sampling=SAMPLING, cached=INT32, recent=TOKENS, given=TOKENS),
    _schema(1, Close, request=INT32),
    _schema(2, Run, run_id=INT63, rows=ROWS, cache_ops=CACHE_OPS, void=FLAG, branches=BRANCHES),
    _schema(3, Result, run_id=INT63, requests=TOKENS, nodes=TOKENS, tokens=TOKENS, void=FLAG, scores=SCORES),
    _schema(4, Cancel, run_ids=RUN_IDS, row_runs=RUN_IDS, row_requests=TOKENS, row_nodes=TOKENS),
    _schema(5, Credit, run_id=INT63),
    _schema(6, Stop),
    _schema(
        7, Prime, request=INT32, tokens=TOKENS, limit=INT32, width=INT32, floor=PROB, sampling=SAMPLING, epoch=INT63
    ),
    _schema(8, Follow, request=INT32, pos=INT32, tokens=TOKENS, limit=INT32, epoch=INT63),
    _schema(9, Retire, request=INT32),
    _schema(
        10, Draft, request=INT32, root=INT32, first=INT63, parents=PARENTS, tokens=TOKENS, probs=PROBS, epoch=INT63
    ),
    _schema(11, EarlyDraft, run_id=INT63, requests=TOKENS, nodes=TOKENS, tokens=TOKENS, probs=PROBS),
    _schema(12, Idle, run_id=INT63),
    _schema(13, AskWork),
    _schema(14, Work, busy_us=INT63, sent=RUN_IDS),
    _schema(15, Lost, rank=INT32),
)
_BY_CLASS = {schema.cls: schema for schema in _SCHEMAS}
_BY_KIND = {schema.kind: schema for schema in _SCHEMAS}
_RUN_KIND = _BY_CLASS[Run].kind
_COLUMNS: dict[int, Callable[[Any], tuple[Any, ...]]] = {
    _BY_CLASS[Draft].kind: attrgetter("parents", "tokens", "probs"),
    _BY_CLASS[EarlyDraft].kind: attrgetter("requests", "nodes", "tokens", "probs"),
}
"""Fields of draft tokens, an entry for each."""


class _NewestRun:
    """The run that was read last, and its header: a stage passes most runs on as they came, to another address.

    Kind and addresses take a byte each, as msgpack writes small numbers, so only the two addresses are replaced.
    """

    def __init__(self) -> None:
        self.run: object = None
        self.header = b""


_newest = _NewestRun()


def encode(src: Actor, dst: Actor, message: Message, payload: Buffer | None = None) -> tuple[Buffer, ...]:
    """Write a message as parts whose concatenation is one frame; the payload is passed through, not copied.

    Raises LocalProtocolError if a field does not fit the wire.
    """
    try:
        if message is _newest.run and src < _ONE_BYTE and dst < _ONE_BYTE:
            header = _newest.header[:2] + bytes((src, dst)) + _newest.header[4:]
        else:
            schema = _BY_CLASS[type(message)]
            fields = [pack(value) for pack, value in zip(schema.packs, schema.values(message), strict=True)]
            header = msgpack.packb([schema.kind, src, dst, *fields])
        if payload is None:
            return (_PREFIX.pack(_MAGIC, VERSION, 0, len(header), 0) + header,)
        size = memoryview(payload).nbytes
        prefix = _PREFIX.pack(_MAGIC, VERSION, _HAS_PAYLOAD, len(header), size)
    except (struct.error, OverflowError, TypeError, ValueError) as error:
        name = type(message).__name__
        raise LocalProtocolError(f"A {name} message holds a value that the wire cannot carry: {error}.") from error
    return (prefix + header + _ZEROS[: -(len(prefix) + len(header)) % _ALIGNMENT], payload)


def decode(frame: Buffer) -> tuple[Actor, Actor, Message, memoryview | None]:
    """Read one frame: source actor, destination actor, message, and the payload as a view into the frame.

    Raises PeerProtocolError if the bytes are anything but exactly one valid frame of this version.
    """
    view = memoryview(frame)
    header_length, payload = _split(view)
    header = view[_PREFIX.size : _PREFIX.size + header_length]
    items = _unpack_header(header)
    kind, src, dst = items[:_ADDRESS_ITEMS]
    schema = _BY_KIND.get(kind) if type(kind) is int else None
    if schema is None:
        raise PeerProtocolError(f"A peer sent a message of the unknown kind {kind!r:.40}.")
    if len(items) != _ADDRESS_ITEMS + len(schema.unpacks):
        raise PeerProtocolError(f"A peer sent a {schema.cls.__name__} message with the wrong number of fields.")
    src, dst = INT32.unpack(src), INT32.unpack(dst)
    values = items[_ADDRESS_ITEMS:]
    message = schema.cls(*[unpack(value) for unpack, value in zip(schema.unpacks, values, strict=True)])
    if kind == _RUN_KIND and src < _ONE_BYTE and dst < _ONE_BYTE:
        _newest.run, _newest.header = message, bytes(header)
    columns = _COLUMNS.get(kind)
    if columns is not None and len({len(column) for column in columns(message)}) != 1:
        raise PeerProtocolError(f"A peer sent a {schema.cls.__name__} message whose columns differ in length.")
    return src, dst, message, payload


def _split(view: memoryview) -> tuple[int, memoryview | None]:
    """Check the prefix and all lengths; return the header's length and the payload."""
    total = len(view)
    if total < _PREFIX.size:
        raise PeerProtocolError(f"A peer sent a frame of {total} bytes, shorter than its fixed part.")
    magic, version, flags, header_length, payload_length = _PREFIX.unpack_from(view)
    if magic != _MAGIC:
        raise PeerProtocolError("A peer sent bytes that are not an mpispec frame.")
    if version != VERSION:
        raise PeerProtocolError(
            f"A peer speaks version {version} of the wire format and this rank version {VERSION}; "
            "install the same mpispec on every host."
        )
    end = _PREFIX.size + header_length
    if flags == 0:
        if payload_length or end != total:
            raise PeerProtocolError(f"A peer sent a frame of {total} bytes whose lengths add up to {end}.")
        return header_length, None
    if flags != _HAS_PAYLOAD:
        raise PeerProtocolError(f"A peer sent a frame with the unknown flags {flags}.")
    start = end + -end % _ALIGNMENT
    if start + payload_length != total:
        raise PeerProtocolError(
            f"A peer sent a frame of {total} bytes whose lengths add up to {start + payload_length}."
        )
    if view[end:start] != _ZEROS[: start - end]:
        raise PeerProtocolError("A peer sent a frame whose padding is not zero.")
    return header_length, view[start:]


def _unpack_header(header: memoryview) -> tuple[Any, ...]:
    """Read the msgpack array; bounded by the header's own length, so a lying count allocates nothing."""
    try:
        items = msgpack.unpackb(
            header, use_list=False, max_array_len=32, max_map_len=0, max_str_len=0, max_ext_len=0, strict_map_key=True
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise PeerProtocolError(
            f"A peer sent a header that is not msgpack of the agreed form ({error!s:.80})."
        ) from error
    if type(items) is not tuple or len(items) < _ADDRESS_ITEMS:
        raise PeerProtocolError("A peer sent a header that is not an array of a kind, two actors and fields.")
    return items
