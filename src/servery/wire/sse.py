"""Server-sent events, as much of them as the OpenAI API uses."""

DONE = b"data: [DONE]\n\n"

# One newline: a comment followed by a blank line is an empty event, on which some clients die.
KEEP_ALIVE = b": ka\n"


def event(data: bytes) -> bytes:
    """One event; `data` is JSON without line breaks."""
    return b"data: " + data + b"\n\n"
