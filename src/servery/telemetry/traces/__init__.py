"""The ledger: one row for every exchange, never its content; and what administrators did."""
