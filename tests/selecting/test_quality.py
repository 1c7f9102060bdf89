"""Rules by which a text is no prose."""

from dataclasses import fields, replace

import pytest

from everlearn.errors import ConfigError
from everlearn.selecting.quality import RULES, Quality

PROSE = (
    "The harbour of the town was built with stone from the hills, and ships that came to it brought salt, wool and "
    "wine. Merchants would have their houses near its gate; sailors slept wherever they could find straw. In winter "
    "few boats went out, since storms came over the bay without warning and broke what had been moored too loosely."
)
NONE = Quality(**{field.name: None for field in fields(Quality)})  # type: ignore[arg-type]  # each may be None


def alone(name: str) -> Quality:
    """One rule with its default."""
    return replace(NONE, **{name: getattr(Quality(), name)})


def test_prose_keeps_all_rules_and_there_is_a_rule_for_each_field() -> None:
    assert Quality().broken(PROSE) is None
    assert list(RULES) == [field.name for field in fields(Quality)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words", "the and"),
        ("word_length", "a b c d e f"),  # one letter each
        ("word_length", "incomprehensibilities antidisestablishment"),
        ("symbols", "# # # four five six seven eight nine ten"),  # 3 of 10 words
        ("letters", "one 2 3 4"),  # 1 of 4 words
        ("bullets", "- one\n- two\n* three"),
        ("ellipses", "one two...\nthree four\u2026\nfive"),  # 2 of 3 lines
        ("stop_words", "no frequent word among these but the"),
        ("repeated_lines", "one\ntwo\none\n\none"),  # 2 of 4 lines
        ("top_bigram", "ab cd ab cd ef gh"),  # 8 of 12 characters
        ("top_trigram", "ab cd ef ab cd ef gh"),  # 12 of 14 characters
        ("top_fourgram", "a b c d a b c d e"),  # 8 of 9 characters
        ("repeated_fivegrams", "a b c d e a b c d e x"),  # 5 of 11 words
    ],
)
def test_each_rule_finds_what_it_is_for(name: str, text: str) -> None:
    assert alone(name).broken(text) == name
    assert alone(name).broken(PROSE) is None
    assert NONE.broken(text) is None


def test_shares_at_their_bound_are_kept() -> None:
    assert replace(NONE, top_bigram=8 / 12).broken("ab cd ab cd ef gh") is None
    assert replace(NONE, repeated_fivegrams=5 / 11).broken("a b c d e a b c d e x") is None
    assert replace(NONE, symbols=0.3).broken("# # # four five six seven eight nine ten") is None
    # Nothing is repeated, so that there is no most frequent group, however short the text.
    assert replace(NONE, top_bigram=0.01).broken("just two") is None


def test_a_text_of_blanks_has_no_words() -> None:
    assert NONE.broken(" \n\t ") == "words"


@pytest.mark.parametrize("bounds", [(5, 2), (-1, 3)])
def test_bounds_that_no_text_keeps_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="words"):
        Quality(words=bounds)
