"""Pages of recipes: what is written anew, and what stays."""

from pathlib import Path

from recipes.pages import READING, publish


def test_tables_are_written_anew_and_the_reading_stays(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    publish(file, "# One\n\n| 1 |\n")
    assert file.read_text() == f"# One\n\n| 1 |\n\n{READING}\n"
    file.write_text(file.read_text() + "\nNothing much.\n")
    publish(file, "# Two")
    assert file.read_text() == f"# Two\n\n{READING}\n\nNothing much.\n"
