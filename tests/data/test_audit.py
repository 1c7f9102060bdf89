import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.audit import audit
from everlearn.data.checks import half_width, rows_for
from everlearn.data.findings import Audit, Finding, Limits
from everlearn.data.looks import look
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.metrics.text import ExactMatch
from everlearn.objectives.next_token import NextToken
from everlearn.statistics import wilson
from everlearn.types import Experience, Stream


def asked(prompt: str, answer: str, source: str = "") -> Example:
    return Example(messages=(Message("user", prompt), Message("assistant", answer)), source=source)


def distinct(name: str, count: int, words: int = 30) -> list[Example]:
    """Rows that have nothing in common, with their sources."""
    rng = random.Random(name)
    texts = [" ".join(str(rng.randrange(10**9)) for _ in range(words)) for _ in range(count)]
    return [asked(text, rng.choice("ABCD"), f"{name}:{row}") for row, text in enumerate(texts, start=1)]


def experience(name: str, **parts: Any) -> Experience:
    """A sound experience, but for the parts and fields given."""
    known: dict[str, Any] = {"train": distinct(f"{name}.train", 200), "test": distinct(f"{name}.test", 400)}
    return Experience(name, objective=NextToken(), metric=ExactMatch(), **known | parts)


def audited(*experiences: Experience, **options: Any) -> Audit:
    return audit(Stream(experiences), **options)


def named(found: Audit) -> list[tuple[str, str]]:
    return [(f.severity, f.check) for f in found.findings]


def only(found: Audit) -> Finding:
    assert len(found.findings) == 1, found.findings
    return found.findings[0]


def test_a_sound_stream_has_no_findings() -> None:
    sound = experience("a", validation=distinct("a.validation", 50))
    found = audited(sound, experience("b"))
    assert found.findings == ()
    assert not found.spoils


def test_repeated_training_rows_are_counted_with_their_places() -> None:
    rows = distinct("rows", 200)
    again = [asked("  " + e.prompt[0].content.upper() + "!", e.response, f"again:{n}") for n, e in enumerate(rows[:10])]
    finding = only(audited(experience("a", train=[*rows, *again])))
    assert (finding.severity, finding.check, finding.count, finding.of) == ("warning", "duplicates", 10, 210)
    assert finding.examples[0] == "again:0 = rows:1"
    assert "200 are distinct" in finding.message


def test_many_repetitions_spoil() -> None:
    rows = distinct("rows", 50)
    found = audited(experience("a", train=rows * 4))
    assert named(found) == [("defect", "duplicates")]
    assert found.spoils
    assert not audited(experience("a", train=rows * 4), limits=Limits(unique=0.2)).spoils


def test_rows_that_differ_in_a_word_are_near() -> None:
    rows = distinct("rows", 100)
    near = [asked(e.prompt[0].content + " indeed", e.response, f"near:{n}") for n, e in enumerate(rows[:5])]
    finding = only(audited(experience("a", train=[*rows, *near])))
    assert (finding.severity, finding.check, finding.count) == ("warning", "near duplicates", 5)
    assert finding.examples[0] == "near:0 = rows:1"


def test_one_prompt_with_two_answers_is_a_contradiction() -> None:
    rows = distinct("rows", 100)
    other = [asked(e.prompt[0].content, e.response + "?!x", "other:1") for e in rows[:3]]
    finding = only(audited(experience("a", train=[*rows, *other])))
    assert (finding.check, finding.count, finding.examples[0]) == ("contradictions", 3, "rows:1")


@pytest.mark.parametrize(("count", "severity"), [(8, "defect"), (7, "warning")])
def test_test_prompts_in_train_spoil_from_a_share_on(count: int, severity: str) -> None:
    train, test = distinct("train", 200), distinct("test", 400)
    test[10 : 10 + count] = [asked(e.prompt[0].content, "another answer", "t:1") for e in train[:count]]
    finding = only(audited(experience("a", train=train, test=test)))
    assert (finding.severity, finding.check, finding.count, finding.of) == (severity, "leak", count, 400)
    assert finding.examples[0] == "t:1 = train:1"


def test_test_prompts_nearly_in_train_are_a_warning() -> None:
    train, test = distinct("train", 200), distinct("test", 400)
    test[:20] = [asked("well " + e.prompt[0].content, e.response, "t:1") for e in train[:20]]
    finding = only(audited(experience("a", train=train, test=test)))
    assert (finding.severity, finding.check, finding.count) == ("warning", "near leak", 20)


def test_a_test_in_the_train_of_another_experience_leaks() -> None:
    first, second = experience("a"), experience("b")
    both = [*second.train, *(asked(e.prompt[0].content, "x y z", "b:1") for e in first.test[:40])]
    finding = only(audited(first, experience("b", train=both)))
    assert (finding.severity, finding.check, finding.experience) == ("defect", "leak", "a")
    assert "the train of b" in finding.message


def test_validation_equal_to_test_spoils() -> None:
    plain = experience("a")
    found = audited(experience("a", validation=plain.test))
    assert named(found) == [("defect", "validation is test")]
    half = [*plain.test[:60], *distinct("v", 50)]
    assert named(audited(experience("a", validation=half))) == [("defect", "validation is test")]
    few = [*plain.test[:10], *distinct("v", 50)]
    assert named(audited(experience("a", validation=few))) == [("warning", "validation in test")]


def test_validation_in_train_is_a_warning() -> None:
    train = distinct("train", 200)
    found = audited(experience("a", train=train, validation=[*train[:5], *distinct("v", 50)]))
    assert named(found) == [("warning", "leak to validation")]


def test_empty_and_constant_targets_spoil() -> None:
    test = distinct("test", 400)
    blank = [asked(e.prompt[0].content, " ", "t:1") for e in test[:3]]
    finding = only(audited(experience("a", test=[*blank, *test[3:]])))
    assert (finding.severity, finding.check, finding.count) == ("defect", "empty targets", 3)
    same = [asked(e.prompt[0].content, "Yes." if n % 2 else "yes", "t:1") for n, e in enumerate(test)]
    finding = only(audited(experience("a", test=same)))
    assert (finding.severity, finding.check, finding.count) == ("defect", "constant targets", 400)


def test_one_label_an_experience_is_what_a_class_incremental_stream_may_have() -> None:
    ones = [asked(e.prompt[0].content, "cat", e.source) for e in distinct("train", 200)]
    single = experience("a", train=ones, test=[asked(e.prompt[0].content, "cat") for e in distinct("test", 400)])
    assert audit(Stream((single,), scenario="domain")).spoils
    assert audit(Stream((single,), scenario="class")).findings == ()


def test_a_majority_label_is_named_with_the_score_it_gives_away() -> None:
    test = [asked(e.prompt[0].content, "yes" if n < 340 else "no") for n, e in enumerate(distinct("test", 400))]
    finding = only(audited(experience("a", test=test)))
    assert (finding.severity, finding.check, finding.count) == ("warning", "label imbalance", 340)
    assert "scores 0.85" in finding.message
    assert not audited(experience("a", test=test), limits=Limits(majority=0.9)).findings


@pytest.mark.parametrize(("count", "severity"), [(0, "defect"), (15, "defect"), (81, "warning"), (380, "warning")])
def test_a_small_test_cannot_show_a_change(count: int, severity: str) -> None:
    finding = only(audited(experience("a", test=distinct("test", count))))
    assert (finding.severity, finding.check, finding.count) == (severity, "test size", count)
    assert not count or finding.of == 381


def test_the_size_of_a_test_follows_wilson() -> None:
    for n in (10, 82, 400):
        low, high = wilson(n // 2, n)
        assert half_width(n) == pytest.approx((high - low) / 2, abs=1e-12)
    assert half_width(rows_for(0.05)) <= 0.05 < half_width(rows_for(0.05) - 1)


def test_documents_are_compared_whole_and_cut_whatever_their_length() -> None:
    texts = [Example(text=e.prompt[0].content * 40, source=e.source) for e in distinct("texts", 70)]
    sound = experience("a", train=texts[:40], test=texts[40:])
    assert audited(sound).findings == ()
    found = audited(experience("a", train=texts[:40], test=[*texts[41:], texts[0]]))
    assert [(f.severity, f.check, f.examples) for f in found.findings] == [("defect", "leak", ("texts:1 = texts:1",))]
    assert named(audited(experience("a", train=texts[:40], test=texts[60:]))) == [("warning", "test size")]


def test_rows_longer_than_the_length_are_counted_in_tokens() -> None:
    long = [asked("w " * 90, "x"), *distinct("train", 200)]
    finding = only(
        audited(experience("a", train=long), length=80, count_tokens=lambda e: len(e.messages[0].content.split()))
    )
    assert (finding.severity, finding.check, finding.count, finding.of) == ("warning", "long rows", 1, 201)
    assert "longest has 90, half have at most 30" in finding.message
    assert finding.examples == ("train[0]",)


def test_without_a_counter_long_rows_are_noted_in_characters() -> None:
    finding = only(audited(experience("a", train=[asked("word " * 2000, "x"), *distinct("train", 200)])))
    assert (finding.severity, finding.check, finding.count) == ("note", "long rows", 1)
    for half in ({"length": 10}, {"count_tokens": len}):
        with pytest.raises(ConfigError, match="give both or neither"):
            audited(experience("a"), **half)


def test_one_experience_under_two_names_spoils() -> None:
    first = experience("a")
    found = audited(first, experience("b", train=first.train[:150], test=distinct("other", 400)))
    assert found.findings == ()
    found = audited(first, experience("b", train=first.train, test=first.test))
    assert [(f.severity, f.check, f.experience) for f in found.findings] == [("defect", "same experience", "a")]
    assert "b too" in found.findings[0].message


class Counted(Sequence[Example]):
    """A long lazy sequence that counts how often it is read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        self.read += 1
        return Example(text=f"document {index} {index * index}", source=f"file:{index}")


def test_of_a_huge_sequence_some_rows_are_read_and_that_is_said() -> None:
    rows, tests = Counted(1_000_000), [Example(text=f"another {row}" * 9) for row in range(30)]
    finding = only(audited(experience("a", train=rows, test=tests), limits=Limits(rows=100)))
    assert (finding.severity, finding.check, finding.count, finding.of) == ("note", "sampled", 100, 1_000_000)
    assert rows.read == 100
    again = look(experience("a", train=rows, test=tests), 100).parts["train"].examples
    assert again == look(experience("a", train=rows, test=tests), 100).parts["train"].examples
    assert rows.read == 300


def test_the_gravest_stands_first_and_rows_are_plain_json() -> None:
    train, test = distinct("train", 200), distinct("test", 100)
    found = audited(experience("a", train=[*train, train[0]], test=[*test, *train[:9]]))
    assert named(found) == [("defect", "leak"), ("warning", "test size"), ("note", "duplicates")]
    plain = json.loads(json.dumps(found.rows()))
    assert plain == found.rows()
    assert set(plain[0]) == {"severity", "check", "experience", "message", "examples", "count", "of"}


def test_a_leak_moves_the_verdict_of_the_whole() -> None:
    note = Finding("note", "x", "a", "m")
    assert not Audit("s", (note,)).spoils
    assert Audit("s", (note, Finding("defect", "x", "a", "m"))).spoils


def trace(folder: Path) -> Experience:
    """An experience in the layout of TRACE."""
    parts = {}
    for name in ("train", "eval", "test"):
        rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        parts[name] = [asked(r["prompt"], r["answer"], f"{name}.json:{n}") for n, r in enumerate(rows, start=1)]
    return experience(folder.name, train=parts["train"], validation=parts["eval"], test=parts["test"])


def test_the_known_defects_of_trace_500_are_found(shared: Path) -> None:
    folders = sorted(folder for folder in (shared / "trace-500").iterdir() if folder.is_dir())
    found = audit(Stream(tuple(map(trace, folders)), name="trace-500"))
    figures = {(f.experience, f.check): (f.severity, f.count, f.of) for f in found.findings}
    assert found.spoils
    assert figures["NumGLUE-ds", "leak"] == ("defect", 6, 100)
    assert figures["Py150", "leak"] == ("defect", 5, 100)
    assert figures["NumGLUE-cm", "duplicates"] == ("defect", 244, 500)
    assert figures["NumGLUE-cm", "test size"] == ("warning", 81, 381)
    assert figures["FOMC", "validation in test"] == ("warning", 16, 100)
    assert {name for name, check in figures if figures[name, check][0] == "defect"} == {
        "NumGLUE-ds",
        "Py150",
        "NumGLUE-cm",
    }
