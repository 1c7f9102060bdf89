"""Prompts with places, such as {request}, that are filled all at once."""

import re
from collections.abc import Mapping

from everlearn.errors import ConfigError


def filled(prompt: str, places: Mapping[str, str]) -> str:
    """The prompt with its places filled, so that braces in what fills them mean nothing; others stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), prompt)


def require_places(name: str, prompt: str, *places: str) -> None:
    """Refuse a prompt that does not show what it is about.

    Raises:
        ConfigError: naming the first place that it lacks.
    """
    missing = [place for place in places if f"{{{place}}}" not in prompt]
    if missing:
        raise ConfigError(f"{name}: the prompt has no place {{{missing[0]}}}; the model would not see what it is for.")
