"""Calls that come from other threads reach the loop, whatever the bursts, once for each."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial

import pytest

from mpispec.serve.text.arrivals import Arrivals, arrivals

pytestmark = pytest.mark.unit


def test_nothing_is_lost_and_each_thread_keeps_its_order() -> None:
    count = 2000

    async def main() -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        over = asyncio.Event()
        arriving = arrivals()
        assert arrivals() is arriving

        def take(inbox: deque[tuple[int, int]]) -> None:
            while inbox:
                found.append(inbox.popleft())
            if len(found) == 3 * count:
                over.set()

        def put(thread: int) -> None:
            inbox: deque[tuple[int, int]] = deque()
            call = partial(take, inbox)
            for number in range(count):
                inbox.append((thread, number))
                arriving.ring(call)

        threads = [threading.Thread(target=put, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(over.wait(), 20)
        for thread in threads:
            thread.join()
        return found

    found = asyncio.run(main())
    for thread in range(3):
        assert [number for which, number in found if which == thread] == list(range(count))


def test_a_burst_on_the_loop_is_heard_when_all_of_it_has_come() -> None:
    async def main() -> None:
        heard: list[int] = []
        first, second = partial(heard.append, 1), partial(heard.append, 2)
        for call in (first, second, first):
            arrivals().ring(call)
        assert heard == []
        await asyncio.sleep(0)
        assert heard == [1, 2]
        arrivals().ring(first)
        await asyncio.sleep(0)
        assert heard == [1, 2, 1]

    asyncio.run(main())


def test_what_is_rung_during_a_read_is_heard_right_after_it() -> None:
    async def main() -> None:
        heard: list[int] = []

        def read() -> str:
            arrivals().ring(partial(heard.append, 1))
            assert heard == []
            return "read"

        assert arrivals().during(read) == "read"
        assert heard == [1]
        arrivals().ring(partial(heard.append, 2))
        await asyncio.sleep(0)
        assert heard == [1, 2]

    asyncio.run(main())


def test_what_comes_before_the_loop_has_its_turn_wakes_it_once() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        num_woken = 0
        wake = loop.call_soon_threadsafe

        def counted(*args: object) -> object:
            nonlocal num_woken
            num_woken += 1
            return wake(*args)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        heard: list[int] = []
        arriving = Arrivals(loop)

        def put() -> None:
            for number in range(10):
                arriving.ring(partial(heard.append, number))

        thread = threading.Thread(target=put)
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        assert heard == list(range(10))
        return num_woken

    assert asyncio.run(main()) == 1


def test_a_closed_loop_hears_nothing() -> None:
    loop = asyncio.new_event_loop()
    arriving = Arrivals(loop)
    loop.close()
    arriving.ring(partial(pytest.fail, "called"))
