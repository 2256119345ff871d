"""The HTTP server: a pure ASGI application and what runs it."""
