"""Documents and what the model itself makes of them."""

from dataclasses import dataclass
from typing import Any

import pytest

from everlearn.data.self_edits import Implications
from everlearn.errors import ConfigError
from everlearn.examples import Example, Plan
from everlearn.method import Context, chain
from everlearn.methods.injection import FATES, SelfEdits
from everlearn.metrics.text import ExactMatch
from everlearn.models.sampling import Sampling, sample
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import seed_of
from everlearn.testing.laws import learned
from everlearn.testing.toys import question, toy_model
from everlearn.types import Experience
from everlearn.weights import equal

DOCUMENTS = [Example(text=f"the {w} cat sat.", source=f"cats:{w}") for w in "abcdef"]
EACH = Implications("{document}")


@dataclass(frozen=True)
class Halves:
    """What was written, cut in two: a question and its answer."""

    request: str = "halve {document}"

    def read(self, text: str) -> list[Example | None]:
        """See `Edit`."""
        return [question(text[:5], text[5:]) if len(text) > 5 else None] if text.strip() else []


def context(rows: Any = DOCUMENTS, tests: Any = (), length: int = 64) -> tuple[Context, list[Any]]:
    noted: list[Any] = []
    experience = Experience("cats", rows, tests, NextToken(), ExactMatch())
    return Context(toy_model(), experience, Plan(length=length), note=noted.append), noted


def begun(method: SelfEdits, ctx: Context) -> list[Example]:
    """The edits that are learned beside the experience's own rows."""
    rows = ctx.experience.train
    return list(method.data(method.begin(method.init(ctx.model), ctx), rows, ctx))[len(rows) :]


def test_edits_are_learned_after_the_documents_and_are_gone_when_the_experience_ends() -> None:
    ctx, noted = context()
    method = SelfEdits((EACH,), completions=2, limit=30)
    memory = method.begin(method.init(ctx.model), ctx)
    examples = list(method.data(memory, DOCUMENTS, ctx))
    assert examples[:6] == DOCUMENTS
    edits = examples[6:]
    assert 0 < len(edits) == noted[0]["kept"]
    assert noted[0]["edits for a document"] == len(edits) / 6
    assert all(e.text and e.origin == "cats" for e in edits)
    assert edits[0].source == "self-edit of cats:a"
    after = method.end(memory, ctx)
    assert method.data(after, DOCUMENTS, ctx) is DOCUMENTS
    assert after["counts"]["cats"] == {name: noted[0][name] for name in FATES}


def test_every_line_that_is_written_has_one_fate() -> None:
    ctx, noted = context()
    method = SelfEdits((EACH,), completions=2, top_p=None, limit=30)
    edits = begun(method, ctx)
    found = noted[0]
    assert found["completions"] == 12
    assert found["unfinished"] > 0
    prompts = [ctx.model.encode_prompt(question(e.text, "").prompt) for e in DOCUMENTS]
    drawn = sample(ctx.model, prompts, Sampling(1.0, 30, None, seed_of(0, 0, "edits")), 2)
    lines = [
        line
        for group in drawn
        for c in group
        for line in (c.text if c.finished else c.text.rpartition("\n")[0]).splitlines()
        if line.strip()
    ]
    fates = ("kept", "unread", "copied", "repeated", "near", "tested")
    assert len(lines) == sum(found[name] for name in fates)
    assert all(any(line.strip().endswith(e.text) for line in lines) for e in edits)


def test_a_form_that_is_tested_is_not_learned() -> None:
    method = SelfEdits((Halves(),), limit=20)
    ctx, noted = context()
    edits = begun(method, ctx)
    assert noted[0]["tested"] == 0
    tests = [question(edits[0].prompt[0].content, "whatever")]
    there, noted = context(tests=tests)
    assert begun(method, there) == edits[1:]
    assert noted[0]["tested"] == 1


def test_a_question_longer_than_a_row_is_left_out_and_a_request_longer_than_the_model_reads() -> None:
    method = SelfEdits((Halves(),), top_p=None, limit=20)
    ctx, _ = context()
    edits = begun(method, ctx)
    sizes = [len(ctx.model.encode(e).tokens) for e in edits]
    brief, noted = context(length=max(sizes) - 1)
    assert begun(method, brief) == [e for e, size in zip(edits, sizes, strict=True) if size < max(sizes)]
    assert noted[0]["long"] == sizes.count(max(sizes))
    ctx, noted = context([Example(text="x" * 3000), *DOCUMENTS])
    assert len(begun(method, ctx)) == len(edits)
    assert (noted[0]["long"], noted[0]["completions"]) == (1, 6)


def test_conversations_stay_as_they_are_and_equal_documents_are_asked_once() -> None:
    rows = [question("a", "b"), DOCUMENTS[0], DOCUMENTS[0]]
    ctx, noted = context(rows)
    begun(SelfEdits((EACH,), limit=8), ctx)
    assert noted[0]["completions"] == 1
    ctx, noted = context(rows[:1])
    method = SelfEdits(limit=8)
    assert method.data(method.begin(method.init(ctx.model), ctx), rows, ctx) is rows
    assert noted[0]["edits for a document"] == 0


def test_without_kinds_it_is_plain_fine_tuning() -> None:
    assert equal(learned(SelfEdits(())).weights, learned(chain()).weights)


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in ({"completions": 0}, {"near": 0.0}, {"near": 1.1}, {"temperature": -1.0}):
        with pytest.raises(ConfigError):
            SelfEdits(**wrong)  # type: ignore[arg-type]
