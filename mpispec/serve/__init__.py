"""What people and programs talk to: prompts and answers as text, the HTTP server, and chats on a terminal.

`text` goes from conversations to tokens and back, `api` knows the forms that clients send and read, `http` is the
server, `terminal` the chat of rank 0 and the one of `mpispec chat`. `text` and `terminal.repl` need no extra, `api` and
`http` need `serve` (starlette, uvicorn, pydantic, prometheus_client). `http.server` imports that when a server is made,
so that a port can be bound before anything heavy is loaded.
"""
