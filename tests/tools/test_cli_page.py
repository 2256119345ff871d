"""The page about the command line says what the command line is."""

from tools.cli_page import PAGE, page, verbs


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run make format"


def test_every_option_is_explained() -> None:
    unexplained = [
        f"{name} {action.option_strings or action.dest}"
        for name, verb in verbs().items()
        for action in verb._actions
        if not action.help and action.option_strings
    ]
    assert unexplained == []
