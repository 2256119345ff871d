"""What stops a suite before it says anything about the server."""


class CannotRun(Exception):
    """The suite cannot be run as it was asked for; the message says why and what to do."""
