"""What becomes of an exchange, once it is over, however it ended."""
