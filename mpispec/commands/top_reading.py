"""What GET /metrics of a server says, and what happened between two looks at it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

_PATIENCE_S = 10.0
_PREFIX = "mpispec:"

Labels = tuple[tuple[str, str], ...]


class NoAnswer(Exception):
    """The server cannot be read now; the text is one sentence with the remedy."""


class Refused(NoAnswer):
    """It cannot be read later either."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one look, by name without the prefix and by labels in order."""

    samples: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def of(cls, text: str) -> Reading:
        """Read Prometheus' text form. Raises Refused where the text is no server's of ours."""
        samples: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    name = sample.name.removeprefix(_PREFIX)
                    labels = tuple(sorted((label, _printable(word)) for label, word in sample.labels.items()))
                    samples.setdefault(name, {})[labels] = sample.value
        except ValueError as error:
            raise Refused(f"What it says is no metrics ({str(error)[:200]!r}); is it a server of mpispec?") from None
        if "model_info" not in samples:
            raise Refused("It has metrics, but not those of mpispec; name a server that `mpispec serve` started.")
        return cls(samples)

    def value(self, name: str, **labels: str) -> float:
        """Return a sample, 0 where there is none."""
        return self.samples.get(name, {}).get(tuple(sorted(labels.items())), 0.0)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the sums of a metric by one of its labels."""
        found: Counter[str] = Counter()
        for labels, value in self.samples.get(name, {}).items():
            found[dict(labels)[label]] += value  # type: ignore[assignment]  # typeshed counts in integers
        return dict(found)

    def info(self, name: str) -> list[dict[str, str]]:
        """Return the labels of each sample."""
        return [dict(labels) for labels in self.samples.get(name, {})]

    @property
    def uptime_s(self) -> float:
        """For how long the engine has run; 0 where no rank said it."""
        busy, idle = self.by("rank_busy_seconds_total", "rank"), self.by("rank_idle_seconds_total", "rank")
        return max((busy[rank] + idle.get(rank, 0.0) for rank in busy), default=0.0)


_NOTHING = Reading({})


@dataclass(frozen=True, slots=True)
class Change:
    """From one look to the next; without an earlier one, since the start."""

    now: Reading
    before: Reading = _NOTHING

    def followed_by(self, reading: Reading) -> Change:
        """Return the change from the newest look to another; since the start if the server has started anew."""
        return Change(reading, self.now if reading.uptime_s >= self.now.uptime_s else _NOTHING)

    @property
    def seconds(self) -> float:
        """How much time lies between them on the server's clock."""
        return self.now.uptime_s - self.before.uptime_s

    def of(self, name: str, **labels: str) -> float:
        """Return by how much a counter has grown."""
        return self.now.value(name, **labels) - self.before.value(name, **labels)

    def rate(self, name: str, **labels: str) -> float:
        """Return the same for each second."""
        return self.of(name, **labels) / self.seconds if self.seconds > 0 else 0.0

    def busy(self, rank: str) -> float | None:
        """Return the share of its time that a rank has computed; None if it did not say it both times."""
        busy, idle = (self.of(f"rank_{what}_seconds_total", rank=rank) for what in ("busy", "idle"))
        is_known = all(("rank", rank) in labels for labels in self._labels_of(rank))
        return min(1.0, max(0.0, busy / (busy + idle))) if is_known and busy + idle > 0 else None

    def quantile(self, name: str, share: float) -> float | None:
        """Return a quantile of a histogram's observations, between bounds of buckets by a straight line.

        Of those since the start where there were none in between; None where there were none at all.
        """
        bounds = self._buckets(name) or Change(self.now)._buckets(name)
        if not bounds:
            return None
        rank = share * bounds[-1][1]
        for (low, below), (high, count) in itertools.pairwise([(0.0, 0.0), *bounds]):
            if count >= rank and count > below:
                return low if math.isinf(high) else low + (high - low) * (rank - below) / (count - below)
        return None

    def _buckets(self, name: str) -> list[tuple[float, float]]:
        """Return the upper bounds of a histogram with the observations up to them; none if there was no observation."""
        found = sorted(
            (float(dict(labels)["le"]), count - self.before.samples.get(f"{name}_bucket", {}).get(labels, 0.0))
            for labels, count in self.now.samples.get(f"{name}_bucket", {}).items()
        )
        return found if found and found[-1][1] > 0 else []

    def _labels_of(self, rank: str) -> list[Labels]:
        """Return the labels under which each look has the rank, empty ones where it lacks it."""
        looks = [self.now] if self.before is _NOTHING else [self.now, self.before]
        mine = (("rank", rank),)
        return [mine if mine in look.samples.get("rank_busy_seconds_total", {}) else () for look in looks]


def _printable(word: str) -> str:
    """Return a word without what could steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in word)


class Watched:
    """A server that is looked at again and again."""

    def __init__(self, url: str, key: str | None) -> None:
        """Raises Refused where `url` is no address."""
        self._url = url.rstrip("/").removesuffix("/v1")
        try:
            self._http = httpx.Client(
                base_url=self._url, timeout=_PATIENCE_S, headers={"Authorization": f"Bearer {key}"} if key else {}
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Refused(f"{url} cannot be asked ({error}); write it as http://127.0.0.1:8080.") from None

    def look(self) -> Reading:
        """Return what the server says now. Raises NoAnswer."""
        try:
            answer = self._http.get("/metrics")
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Refused(f"{self._url} is no address; write it as http://127.0.0.1:8080.") from None
        except httpx.HTTPError as error:
            words = str(error) or type(error).__name__
            raise NoAnswer(f"{self._url} does not answer ({words}); is mpispec serve running there?") from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Refused(f"{self._url} wants another key; give it with --api-key or MPISPEC_API_KEY.")
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Refused(f"{self._url} has no /metrics; name a server that `mpispec serve` started.")
        if not answer.is_success:
            raise NoAnswer(f"{self._url} answers {answer.status_code}: {answer.text[:200]!r}; see what it says itself.")
        return Reading.of(answer.text)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()
