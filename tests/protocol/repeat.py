"""Repeats one scenario: python -m tests.protocol.repeat SEED [STRATEGY]."""

from __future__ import annotations

import sys

from tests.protocol.scenario import STRATEGIES, draw, play

if __name__ == "__main__":
    scenario = draw(int(sys.argv[1]), strategies=sys.argv[2:] or tuple(STRATEGIES))
    print(scenario)
    print(play(scenario), "steps, text as expected")
