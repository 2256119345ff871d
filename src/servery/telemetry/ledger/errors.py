"""What goes wrong with a ledger."""


class LedgerError(Exception):
    """The ledger cannot be used; says which one, why, and what to do."""


class DatabaseFailure(Exception):
    """A statement was not carried out. With `is_lasting` it never will be: there is something wrong with its values."""

    def __init__(self, why: str, *, is_lasting: bool = False) -> None:
        super().__init__(why)
        self.is_lasting = is_lasting
