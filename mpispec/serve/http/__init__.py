"""The HTTP server: its routes, who may use them, what is counted and written down, and the page at `/`."""
