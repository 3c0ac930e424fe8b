"""What turns tokens into text: a detokeniser with stop strings, completions, the HTTP server and the line REPL.

`http`, `schema` and `guard` need the `serve` extra (starlette, uvicorn, pydantic); all else the standard
library only. `server` imports them when a server is made, so that a port can be bound, and refused, before anything
heavy is loaded.
"""
