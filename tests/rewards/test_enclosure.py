"""The parts of the enclosure that can be tried outside it; the rest is tried in `test_sandbox.py`, by running it."""

import pytest

from everlearn.rewards import enclosure


def test_the_guard_lets_programs_write_in_their_folder_and_read_anywhere(tmp_path):
    folder = f"{tmp_path}/"
    for event, details in [
        ("open", (f"{folder}a", "w", enclosure.WRITES)),
        ("open", ("/etc/passwd", "r", 0)),
        ("open", (3, "w", enclosure.WRITES)),
        ("os.mkdir", (f"{folder}b", 0o777, -1)),
        ("compile", (None, "x")),
    ]:
        enclosure._guard(folder, event, details)


@pytest.mark.parametrize(
    ("event", "path"),
    [("open", "/etc/passwd"), ("open", b"/etc/passwd"), ("os.remove", "{}/../x"), ("os.rename", "{}x")],
)
def test_the_guard_is_not_led_outside(event, path, tmp_path):
    named = path.format(tmp_path) if isinstance(path, str) else path
    with pytest.raises(PermissionError, match="outside the folder"):
        enclosure._guard(f"{tmp_path}/", event, (named, "w", enclosure.WRITES))


def test_the_guard_looks_where_a_file_is_moved_to(tmp_path):
    with pytest.raises(PermissionError, match=r"os\.rename of /etc/x is refused"):
        enclosure._guard(f"{tmp_path}/", "os.rename", (f"{tmp_path}/a", "/etc/x", -1, -1))
