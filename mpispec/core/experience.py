"""What the requests of a head have shown of its drafters; it outlasts them, so that no chat believes a draft anew."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mpispec.core.calibration import Calibration

_Kind = TypeVar("_Kind")


class Experience:
    """Calibrations by drafters, and what else requests share."""

    def __init__(self) -> None:
        self._calibrations: defaultdict[int, Calibration] = defaultdict(Calibration)
        self._shared: dict[type, object] = {}

    def of(self, kind: type[_Kind], make: Callable[[], _Kind]) -> _Kind:
        """Return the thing of a kind that all requests share, made when it is first asked for."""
        found = self._shared.get(kind)
        if not isinstance(found, kind):
            found = self._shared[kind] = make()
        return found

    def rate(self, drafters: int, confidence: float) -> float:
        """Return how often draft tokens of all requests, of about this confidence, were right."""
        return self._calibrations[drafters].rate(confidence)

    def calibrations(self) -> defaultdict[int, Calibration]:
        """Return calibrations for a request to go on from."""
        return copy.deepcopy(self._calibrations)

    def learn(self, drafters: int, confidence: float, is_right: bool, depth: int, share: float) -> None:
        """Learn from the verification of a draft token; see `Calibration.learn`."""
        self._calibrations[drafters].learn(confidence, is_right, depth, share)


@dataclass(slots=True)
class Others:
    """What a request knows of the others of its head, so that its strategy can."""

    load: int = 0
    """Requests that are active, or about to be."""
    experience: Experience = field(default_factory=Experience)
