"""What turns tokens into text and back: prompts, completions, the HTTP server and the line REPL.

Requests and what is asked over HTTP need the `serve` extra (starlette, uvicorn, pydantic, prometheus_client): `http`
and all that it imports by itself. What the REPL and `generate` need too, from `prompt` to `completion`, is the standard
library only. `server` imports the rest when a server is made, so that a port can be bound before anything heavy is
loaded.
"""
