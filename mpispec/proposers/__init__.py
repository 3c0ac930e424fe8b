"""Guessers that live in the head and cost it next to nothing."""
