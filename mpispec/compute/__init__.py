"""Backends that compute layer ranges: llama.cpp and a toy whose arithmetic shows every stale read."""
