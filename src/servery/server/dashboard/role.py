"""What somebody may do at the dashboard."""

import enum


class Role(enum.Enum):
    """ADMIN looks and asks models; VIEWER looks; LOCAL is whoever sits at a machine whose server asks nobody for a key."""

    ADMIN = "admin"
    VIEWER = "viewer"
    LOCAL = "local"

    @property
    def may_ask(self) -> bool:
        """Whether it may ask models, which costs money and time."""
        return self is not Role.VIEWER
