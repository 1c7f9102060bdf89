"""The pages beside recipes: tables that are written anew, and what a person has written about them, which stays."""

from pathlib import Path

from everlearn.files import write_atomic

READING = "## What it says"
"""What is below this heading is written by hand, and kept."""


def publish(file: Path, text: str) -> None:
    """Write a page as Markdown, with the reading that stands there already below it."""
    reading = file.read_text(encoding="utf-8").partition(READING)[2] if file.exists() else ""
    write_atomic(file, f"{text.rstrip()}\n\n{READING}" + (reading or "\n"))
