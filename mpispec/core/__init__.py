"""The protocol: pure state machines without clock, tensors or I/O (law 1)."""
