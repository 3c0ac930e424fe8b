"""Measurements and models behind figures of docs/: `python scripts/research NAME ...`. Not part of the package."""
