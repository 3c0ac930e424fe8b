"""How the emulated cluster says no."""

from __future__ import annotations


class Failed(Exception):
    """The command cannot be carried out; the text is one sentence with the remedy."""

    code = 1


class NotAllowed(Failed):
    """This machine or this user may not emulate hosts; 77 is the exit code by which test harnesses know a skip."""

    code = 77
