"""What chat and HTTP ask of an engine: that of this process, or one that a front process reaches over a socket."""

from __future__ import annotations

from typing import Any, Protocol

from mpispec.runtime.engine import EngineFacts, Generation, Listener


class Engine(Protocol):
    """The public side of `runtime.engine.Engine`, where each method is described. Any thread may call them."""

    default_strategy: str
    default_drafter: str

    @property
    def facts(self) -> EngineFacts:
        """What it takes."""

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""

    def submit(self, generation: Generation, listener: Listener) -> int:
        """Queue a generation; raises ValueError and EngineStopped."""

    def withdraw(self, request: int) -> None:
        """End a request early."""

    def report(self, request: int) -> dict[str, Any]:
        """Return what happened to a finished request."""

    def stats(self) -> dict[str, Any]:
        """Return totals since the start. May wait for an answer, so never call it on an event loop."""

    def ranks(self) -> dict[int, dict[str, Any]]:
        """Return by rank where it is, what it holds and what it has done. May wait, as `stats`."""

    def stop(self) -> None:
        """End the job."""
