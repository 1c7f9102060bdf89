"""Every shared option says what it is for."""

from typing import Annotated, get_args, get_origin

from everlearn import options


def test_every_option_has_a_help_text() -> None:
    found = [value for value in vars(options).values() if get_origin(value) is Annotated]
    assert len(found) >= 9
    for option in found:
        (declared,) = get_args(option)[1:]
        assert declared.help
        assert declared.help.endswith(".")
