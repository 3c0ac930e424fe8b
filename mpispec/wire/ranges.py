"""Which values a message may hold: what a caller is refused before it gets as far as a peer."""

from __future__ import annotations

MAX_SEED = 2**64 - 1
SAMPLING_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 1e6),
    "repeat_last_n": (0, 2**31 - 1),
    "seed": (0, MAX_SEED),
}
"""The least and the largest value of each field of `Sampling`: what a message may hold and a float32 can bear."""
