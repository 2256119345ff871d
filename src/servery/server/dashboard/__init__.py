"""The dashboard: a page that the server serves by itself, and what it is fed with."""
