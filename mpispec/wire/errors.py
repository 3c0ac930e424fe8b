"""Two families of wire errors, after h11: theirs, which no input may escape, and ours, which is a bug."""

from __future__ import annotations


class PeerProtocolError(Exception):
    """A peer sent bytes that are not a valid frame; the text is one sentence."""


class LocalProtocolError(Exception):
    """This rank tried to send what no peer would accept: a bug of ours; the text is one sentence."""
