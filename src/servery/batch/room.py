"""The bytes that may be kept: finished files, uploads on their way in and results of batches share them."""


class NoRoom(Exception):
    """What is to be kept does not fit any more."""


class Room:
    """At most `max_bytes`, of which `taken_bytes` are taken by what is there or on its way."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken_bytes = 0

    def take(self, count: int) -> None:
        """Take `count` bytes before they are written; raises `NoRoom`, and takes none, when that is too much."""
        if self.taken_bytes + count > self.max_bytes:
            raise NoRoom
        self.taken_bytes += count

    def find(self, count: int) -> None:
        """Count bytes that an earlier run left, however many they are: the bound may have been larger."""
        self.taken_bytes += count

    def give_back(self, count: int) -> None:
        """Bytes that were taken are not there any more."""
        self.taken_bytes -= count
