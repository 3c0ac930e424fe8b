"""How much of the time that a stage computes prompts the rows of others may take (ADR 0048)."""

from __future__ import annotations

SHARE = 0.1
"""By so much longer a prompt is read for others who decode meanwhile."""


class Allowance:
    """Says when others may have their turn; times in seconds."""

    def __init__(self) -> None:
        self.owed = 0.0
        """Seconds for which prompts are to be computed before the rows of others are again."""

    @property
    def is_there(self) -> bool:
        """Whether others may compute now."""
        return self.owed <= 0.0

    def read(self, seconds: float) -> None:
        """Note that prompts were computed."""
        self.owed = max(0.0, self.owed - seconds)

    def took(self, seconds: float) -> None:
        """Note that others computed while there were prompts to compute."""
        self.owed += seconds / SHARE
