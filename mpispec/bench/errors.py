"""Why a measurement could not be made."""


class BenchError(Exception):
    """The measurement could not be made; the text is one sentence with the remedy."""
