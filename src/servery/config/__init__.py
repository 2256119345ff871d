"""The one YAML file that a user writes, as an immutable and validated `Config`."""
