"""What is wrong with an option; the command line says it in one line."""


class OptionError(ValueError):
    """An option cannot be used as it was given; the message names it, its value and the rule."""
