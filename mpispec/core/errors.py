"""What a core raises when a peer, or we ourselves, break the protocol."""


class ProtocolError(Exception):
    """An event that cannot happen in the present state: a bug, ours or a peer's. The job ends with it."""
