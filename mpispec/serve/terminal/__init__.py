"""Chats on a terminal: with the engine of rank 0, or with a server over HTTP."""
