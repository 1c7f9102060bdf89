"""Knowledge from documents, by way of what the model itself makes of them (SEAL, arXiv:2506.10943)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from everlearn.data.self_edits import Edit, Implications, Questions, Rewrites, fates
from everlearn.data.sequences import Joined
from everlearn.data.templates import filled
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.method import Context, Method
from everlearn.models.generate import positions
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Completion, Sampling, sample
from everlearn.randomness import seed_of
from everlearn.types import Memory

FATES = ("completions", "kept", "unfinished", "empty", "unread", "long", "copied", "repeated", "near", "tested")
"""What is counted: completions that were asked for, those cut off and those empty; lines that are no edit; requests
longer than the model's positions and edits longer than a row; and what becomes of edits, as `fates` says."""
TOGETHER = 64
"""Documents that are asked about at a time."""


@dataclass(frozen=True)
class SelfEdits(Method):
    """Learn from documents and from what the model as it is makes of them (self-edits of SEAL, arXiv:2506.10943).

    Before an experience the last version writes edits of each document: statements that follow from it, versions in
    other words, questions with answers. They are learned beside the documents, statements as documents and questions
    as conversations. Dropped and counted are: what is empty or cut off; what is no edit; what copies its request or a
    document; what was said before, or nearly; what is longer than a row; and what is a test item of the experience, so
    that a form that is tested was never trained on. What no document brought forth is never checked for truth.

    Differs from the paper, where reinforcement teaches the model to write edits that help (ReST-EM), edits of one kind
    are used at a time, and an answer's lines are learned as plain text: here the model writes as it is, and questions
    are in its chat template. The requests' words are our own. Conversations of the experience are left as they are.

    Extra compute: `completions` of each kind for each document before an experience. Memory: ten numbers for each
    experience; while one is learned, the text of its edits.

    Args:
        kinds: of edits; without any it is plain fine-tuning.
        completions: of each kind for each document, drawn apart.
        near: see `everlearn.data.self_edits.fates`.
        temperature: of writing; 0 is greedy, and then more than one completion repeats the first.
        top_p: the probability of the nucleus that is drawn from; None draws from all tokens.
        limit: most tokens of a completion.
    """

    keeps: ClassVar[str] = "counts"
    computes: ClassVar[str] = "completions of each document, at the beginning"
    forgets_apart: ClassVar[str] = "it learns what it has written itself, be it wrong"

    kinds: tuple[Edit, ...] = (Implications(), Rewrites(), Questions())
    completions: int = 1
    near: float | None = 0.9
    temperature: float = 1.0
    top_p: float | None = 0.9
    limit: int = 512

    def __post_init__(self) -> None:
        """Refuse counts and shares that there are not."""
        if self.completions < 1 or (self.near is not None and not 0 < self.near <= 1):
            raise ConfigError(f"{self}: completions is 1 or more, near in (0, 1] or None.")
        Sampling(self.temperature, self.limit, self.top_p)

    def init(self, model: LanguageModel) -> Memory:
        """Nothing written."""
        return {"rows": [], "counts": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What the model as it is makes of the experience's documents."""
        documents = list({e.key: e for e in ctx.experience.train if e.text}.values())
        counts = Counter[str]()
        written = [(edit, asked.request) for asked, edit in self._edits(documents, counts, ctx)]
        edits, requests = [edit for edit, _ in written], [request for _, request in written]
        found = fates(edits, requests, documents, ctx.experience.test, self.near)
        counts.update(found)
        told = {name: counts[name] for name in FATES}
        ctx.note({**told, "edits for a document": counts["kept"] / max(len(documents), 1)})
        kept = [edit.row() for edit, fate in zip(edits, found, strict=True) if fate == "kept"]
        return {"rows": kept, "counts": memory["counts"] | {ctx.experience.name: told}}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The examples, and the edits after them."""
        edits = tuple(Example.from_row(row) for row in memory["rows"])
        return Joined((examples, edits)) if edits else examples

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The edits are gone."""
        return memory | {"rows": []}

    def _edits(
        self, documents: Sequence[Example], counts: Counter[str], ctx: Context
    ) -> Iterator[tuple["_Asked", Example]]:
        """Each edit that fits into a row, behind what it was asked for."""
        for asked, completion in self._drawn(documents, counts, ctx):
            counts["completions"] += 1
            counts["unfinished"] += not completion.finished
            # The last line of what was cut off is not whole.
            lines = asked.kind.read(completion.text if completion.finished else completion.text.rpartition("\n")[0])
            counts["empty"] += not completion.text.strip()
            for edit in lines:
                if edit is None:
                    counts["unread"] += 1
                elif not edit.text and len(ctx.model.encode(edit).tokens) > ctx.plan.length:
                    counts["long"] += 1
                else:
                    about = asked.document
                    source = f"self-edit of {about.source or about.key}"
                    yield asked, replace(edit, source=source, origin=about.origin or ctx.experience.name)

    def _drawn(
        self, documents: Sequence[Example], counts: Counter[str], ctx: Context
    ) -> Iterator[tuple["_Asked", Completion]]:
        """What was asked, with a completion of it; what does not fit into the model's positions is not asked."""
        most = positions(ctx.model.module)
        sampling = Sampling(self.temperature, self.limit, self.top_p, seed_of(ctx.seed, ctx.seen, "edits", *ctx.place))
        for start in range(0, len(documents), TOGETHER):
            some = [_Asked.of(e, kind) for e in documents[start : start + TOGETHER] for kind in self.kinds]
            prompts = [ctx.model.encode_prompt((Message("user", asked.request),)) for asked in some]
            fits = [most is None or len(prompt) + self.limit <= most for prompt in prompts]
            counts["long"] += fits.count(False)
            fitting = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
            drawn = iter(sample(ctx.model, fitting, sampling, self.completions) if fitting else ())
            for asked in (asked for asked, fit in zip(some, fits, strict=True) if fit):
                yield from ((asked, completion) for completion in next(drawn))


@dataclass(frozen=True)
class _Asked:
    """A kind of edit that was asked of a document."""

    document: Example
    kind: Edit
    request: str

    @classmethod
    def of(cls, document: Example, kind: Edit) -> "_Asked":
        return cls(document, kind, filled(kind.request, {"document": document.text}))
