"""The same cores on a virtual clock: the protocol's property test, and a way to study clusters nobody has at hand."""
