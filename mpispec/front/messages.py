"""What rank 0 and its front process say to each other: one msgpack value a frame, checked by type when it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpispec.runtime.engine import EngineFacts, Generation, Progress
from mpispec.serve.http.address import Access
from mpispec.serve.http.server import PING_SECONDS
from mpispec.serve.text.service import Manner


@dataclass(frozen=True, slots=True)
class Door:
    """Where people come in, and who may: the chat and the HTTP server of a front process."""

    access: Access = field(default_factory=Access)
    ping_s: float = PING_SECONDS
    """Seconds that a stream may be silent; 0 is without a bound."""
    has_repl: bool = False
    """Whether there is a chat on standard input."""
    grace_s: float = 30.0
    """Seconds that open requests get at the end."""
    log_form: str = "off"
    """One of `serve.log.FORMS`."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model that an engine runs, and how the user who started it wants it served."""

    path: Path
    """Its file or folder, of which the front process needs the vocabulary."""
    name: str
    """The name that requests may ask for."""
    manner: Manner
    template: str | None = None
    """Another chat template than the model's: `chatml`, or the name of a file."""
    names: dict[str, Any] = field(default_factory=dict)
    """For the chat template of every request."""
    aliases: tuple[str, ...] = ()
    greeting: str = ""
    """What a person at the prompt should know of the model."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Rank 0's first word to a front process of its own."""

    door: Door


class Serve(msgspec.Struct, frozen=True, tag=True):
    """From rank 0: this model is about to be loaded."""

    served: Served


class Hello(msgspec.Struct, frozen=True, tag=True):
    """From rank 0: the engine takes requests."""

    facts: EngineFacts
    strategy: str
    """The default."""
    drafter: str
    """The default."""


class Submit(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: a request, numbered by the front process."""

    key: int
    generation: Generation


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: end a request early."""

    key: int


class News(msgspec.Struct, frozen=True, array_like=True):
    """Of one request: see `runtime.engine.Progress`; with the last one comes the report."""

    key: int
    progress: Progress
    report: dict[str, Any]


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """From rank 0: what a step brought, in order. One message for all requests: the other side wakes up once."""

    news: tuple[News, ...]


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: a question, answered by `Told` of the same key."""

    key: int
    what: Literal["stats", "ranks"]


class Told(msgspec.Struct, frozen=True, tag=True):
    """From rank 0."""

    key: int
    value: dict[str | int, Any]


class Choose(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: the strategy of requests that name none."""

    strategy: str


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """From rank 0: the person pressed Ctrl-C."""


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """From rank 0: take no new requests; open ones have some time to end."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: end the job at once."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """To rank 0: nobody needs the engine any more; no message follows."""

    complaint: str = ""
    """One sentence with the remedy, where it could not be served."""


Message = (
    Open | Serve | Hello | Submit | Withdraw | Progressed | Ask | Told | Choose | Interrupt | Refuse | Stop | Ended
)
_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_decoder = msgspec.msgpack.Decoder(Message, dec_hook=lambda kind, value: kind(value))


def encode(message: Message) -> bytes:
    """Return a message as a frame's body."""
    return _encoder.encode(message)


def decode(body: bytes) -> Message:
    """Return the message of a frame's body; raises ValueError with a sentence where it is none."""
    message: Message = _decoder.decode(body)
    return message
