"""The recipe of learning at test time: its questions, its rows and its page."""

from itertools import combinations

from recipes.test_time import REGIMES, WAYS, Setting, Size, page, questions


def test_both_regimes_ask_about_the_same_pairs_and_the_right_answer_differs() -> None:
    for larger, smaller in zip(questions("right", 3)[:50], questions("wrong", 3)[:50], strict=True):
        asked, other = larger.messages[0].content, smaller.messages[0].content
        assert asked.replace("larger", "smaller") == other
        numbers = [int(word.strip("?")) for word in asked.split() if word.strip("?").isdigit()]
        assert {larger.response, smaller.response} == {str(max(numbers)), str(min(numbers))}
        assert larger.response == str(max(numbers))
    assert len({e.key for e in questions("right", 3)}) == 90 * 89 // 2
    first = [e.messages[0].content.split()[3].strip(",") == e.response for e in questions("right", 3)]
    assert 0.45 < sum(first) / len(first) < 0.55


def test_labelled_rows_prompts_probe_and_held_out_items_are_disjoint() -> None:
    size = Size(5, 6, 7, 8)
    experience = Setting(0, size).experience("right")
    labelled = questions("right", 0)[:5]
    parts = [{e.key for e in part} for part in (labelled, experience.train, experience.validation, experience.test)]
    assert [len(part) for part in parts] == [5, 6, 7, 8]
    assert all(not one & other for one, other in combinations(parts, 2))


def test_the_page_has_a_row_for_every_way() -> None:
    run = {"answers": 0.5, "attempts": 0.25, "majority": 0.75, "ended": "done"}
    run |= {f"{name} after": 1.0 for name in ("answers", "attempts", "majority")}
    found = {(regime, way): [run, run | {"ended": "probe"}] for regime in REGIMES for way in WAYS}
    text = page(found, range(2), Size())
    assert sum(line.startswith(("| right", "| wrong")) for line in text.splitlines()) == len(REGIMES) * len(WAYS)
    assert "| right | blind | 25.0 [25.0, 25.0] | 100.0 [100.0, 100.0] | 75.0 [75.0, 75.0] |" in text
    assert "done 1, probe 1 |" in text
    assert "- wrong, probe: 75.0 [75.0, 75.0]; 25.0 [25.0, 25.0]" in text
