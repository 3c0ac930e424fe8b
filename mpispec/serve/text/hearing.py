"""From completions to who makes events of their pieces, on one event loop and without a task in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from mpispec.serve.text.completion import AsyncCompletion
from mpispec.serve.text.turn import Piece

Take = Callable[[int, list[Piece]], bool]
"""Takes the next pieces of the completion with that index; returns whether it can take more at once."""


class _Hearing:
    """Hands on what comes of the completions of one request."""

    def __init__(self, completions: Sequence[AsyncCompletion], take: Take) -> None:
        self._completions = completions
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._halted = self._loop.create_future()
        """Done while nothing is handed on."""
        self.num_open = len(completions)

    async def until_halted(self) -> None:
        """Hand on what comes, until all have ended or no more can be taken. Raises what `take` does."""
        self._halted = self._loop.create_future()
        for index, completion in enumerate(self._completions):
            completion.attach(partial(self._look, index))
            self._look(index)
        await self._halted

    def _look(self, index: int) -> None:
        completion = self._completions[index]
        if self._halted.done() or completion.has_ended:
            return
        try:
            pieces = completion.take()
            can_take = self._take(index, pieces) if pieces or completion.has_ended else True
        except Exception as error:  # raised again where it is waited for
            self._halted.set_exception(error)
            return
        self.num_open -= completion.has_ended
        if not can_take or not self.num_open:
            self._halted.set_result(None)
        elif completion.has_more:  # nothing else on the loop would have its turn until all is taken
            self._loop.call_soon(self._look, index)


async def _at_once() -> None:
    """Wait for nothing."""


async def hear(
    completions: Sequence[AsyncCompletion], take: Take, drain: Callable[[], Awaitable[None]] = _at_once
) -> None:
    """Have `take` called with what comes of completions, until all have ended; the last pieces of each may be none.

    It is called by the loop, not by this task: to wake a task for each token costs more than the rest of its way.
    Where it could not take more, `drain` is awaited first. Raises what `take` does. Leaving early, cancelled too,
    withdraws the completions.
    """
    hearing = _Hearing(completions, take)
    try:
        await hearing.until_halted()
        while hearing.num_open:
            await drain()
            await hearing.until_halted()
    finally:
        for completion in completions:
            completion.withdraw()
