"""Downloads the weights that ranks lack, before anything is loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgpack

from mpispec.models import hub
from mpispec.models.errors import ModelError
from mpispec.runtime.group import Group, JobError, agree, gather

_LOOK_S = 0.5
"""How often ranks tell each other how far they are; every wait of theirs for each other is as short."""
_SAY_S = 10.0


class _Download:
    """What one rank lacks, on a thread of its own: the main one goes on to talk with the other ranks."""

    def __init__(self, held: Iterable[hub.Held]) -> None:
        """Find out what is lacking of these layers of models. Raises ModelError."""
        self._lacking = {(each.path, shard): size for each in held for shard, size in hub.lacking(each).items()}
        self.n_bytes = sum(self._lacking.values())
        self._whole = 0
        self._begun = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done_bytes(self) -> int:
        return self._whole + self._begun

    def look(self) -> bool:
        """Wait a moment; tell whether all is here. Raises JobError."""
        self._thread.join(_LOOK_S)
        if isinstance(self._failure, ModelError):
            raise JobError(str(self._failure))
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for (path, shard), size in self._lacking.items():
                hub.fetch(path, shard, self._count)
                self._whole, self._begun = self._whole + size, 0
        except Exception as error:  # raised by the main thread
            self._failure = error

    def _count(self, n_bytes: int) -> None:
        self._begun += n_bytes


def download(group: Group, held: Iterable[hub.Held], say: Callable[[str], None]) -> None:
    """Download what this rank lacks of layers of models, while others do the same. Collective.

    Raises JobError on all ranks as soon as any has failed.
    """
    mine = agree(group, lambda: _begun(held))
    said, is_done = -_SAY_S, False
    while not is_done:
        is_here = agree(group, mine.look)
        everyone = [
            msgpack.unpackb(one) for one in gather(group, msgpack.packb([is_here, mine.done_bytes, mine.n_bytes]))
        ]
        is_done = all(is_here for is_here, *_ in everyone)
        done, whole = (sum(column) for column in list(zip(*everyone, strict=True))[1:])
        if whole and (is_done or time.monotonic() - said >= _SAY_S):
            said = time.monotonic()
            say(f"downloaded {done / 1e6:.1f} of {whole / 1e6:.1f} MB of weights")


def _begun(held: Iterable[hub.Held]) -> _Download:
    try:
        return _Download(held)
    except ModelError as error:
        raise JobError(str(error)) from error
