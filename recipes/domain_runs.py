"""The runs of `recipes.domains`: what differs between its arms, how they are made, and what they tell."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from everlearn.examples import Example
from everlearn.files import read_json, write_json
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.annealing import StableBranch
from everlearn.methods.freezing import Freeze
from everlearn.methods.latent_replay import LatentReplay
from everlearn.methods.replay import Replay
from everlearn.methods.stability import StabilityGap
from everlearn.metrics.suites import general_suite
from everlearn.models.load import load_tokenizer
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.run_view import RunView
from everlearn.types import Progress, Stream
from recipes.domain_texts import DOMAINS, LETTERS, bits_per_byte, domain_stream, nats, together

SWEPT = 100
"""The seed of the sweep."""
RATES = {"plain": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2)}
"""Learning rates of the sweep."""
TOLD = "told.json"
Told = dict[str, Any]
"""What a run has to tell, see `told`."""


@dataclass(frozen=True)
class Arm:
    """A way to learn.

    Args:
        methods: what stands before the frozen layers, and what behind them.
        schedule: of the learning rate.
        rate: whose learning rate of the sweep it takes.
        together: whether all domains are one experience.
    """

    methods: tuple[Method, Method] = (chain(), chain())
    schedule: Schedule = Schedule("cosine", floor=0.1)
    rate: str = "plain"
    together: bool = False


@dataclass(frozen=True)
class Study:
    """The plan.

    Args:
        text: the folder of the texts.
        out: where the runs are kept.
        documents: of each domain that a run learns from.
        tests: documents of each domain's test.
        watched: documents of each earlier domain that are looked at on the way.
        every: steps between these looks.
        per_ability: items of each general ability.
        seeds: of the table.
        frozen: lower layers that stand still.
        model: who learns.
        width: of its states, to count their bytes.
        only: arms beside `plain`; all of them where there are none.
    """

    text: Path
    out: Path
    documents: int = 112
    tests: int = 32
    watched: int = 6
    every: int = 5
    per_ability: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    frozen: int = 20
    model: str = "embedded"
    width: int = 576
    only: tuple[str, ...] = ()

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """By name; `plain`, which the others are held against, is always there."""
        old, kept = 2 * self.documents, max(2, latent_room(2 * self.documents * LETTERS, LETTERS // 3, self.width))
        latent = {"latent_bytes": kept, "latent_documents": old} if self.frozen else {}
        found = {"plain": Arm()}
        found |= {f"replay_{n}": Arm((chain(), Replay(n / 100, old))) for n in (1, 5, 25)}
        found |= {k: Arm((chain(), LatentReplay(self.frozen, 0.25, room))) for k, room in latent.items()}
        found |= {
            "no_rewarm": Arm(schedule=Schedule("cosine", floor=0.1, rewarm=False)),
            "infinite": Arm(schedule=Schedule("infinite", floor=0.1, rewarm=False)),
            "branches": Arm((chain(), StableBranch()), Schedule("wsd", rewarm=False)),
            "lora": Arm((LoRA(rank=16), chain()), rate="lora"),
            "together": Arm(together=True),
        }
        return {name: arm for name, arm in found.items() if name in ("plain", *(self.only or found))}

    def stream(self, seed: int) -> Stream:
        """The domains in turn; those of the sweep are asked about documents that no other run is asked about."""
        return domain_stream(self.text, seed, (self.documents, self.watched, self.tests), seed == SWEPT)

    def method(self, name: str, looks: bool) -> Method:
        """An arm's method; looking on changes nothing that is learned."""
        before, after = self.arms[name].methods
        gap = StabilityGap(self.every, self.watched) if looks else chain()
        return chain(before, Freeze(below=self.frozen), after, gap)

    def learner(self, name: str, rate: float, seed: int) -> Learner:
        """An arm's learner; the first seed is looked at on the way."""
        recipe = Recipe(AdamW(learning_rate=rate), self.arms[name].schedule, batch_size=4, length=512)
        return Learner(self.model, self.method(name, seed == self.seeds[0]), recipe, seed)


@dataclass(frozen=True)
class Job:
    """One run of the study.

    Args:
        study: the plan.
        name: of the arm.
        rate: its learning rate.
        seed: of documents and of everything else.
    """

    study: Study = field(repr=False)
    name: str
    rate: float
    seed: int

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.study.out / f"seed-{self.seed}" / f"{self.name}-{self.rate:g}"

    @cached_property
    def told(self) -> Told | None:
        """What it has to tell, once it is finished."""
        return read_json(self.folder / TOLD) if (self.folder / TOLD).exists() else None


def latent_room(size: int, tokens: int, width: int) -> int:
    """How many documents' states have room in so many bytes, see `LatentReplay`.

    Args:
        size: bytes.
        tokens: of a document, all but the first of them targets.
        width: of a state, in bfloat16.
    """
    return size // (2 * tokens * width + 4 * (tokens - 1) + tokens)


def learned(job: Job, progress: Progress) -> None:
    """Make a run, and write down what it has to tell; its versions, 4 bytes a parameter, are deleted then."""
    study = job.study
    stream, suite = study.stream(job.seed), general_suite(per_ability=study.per_ability)
    settings = Settings(suite=() if job.seed == SWEPT else suite, scores=job.folder.parent / "scores")
    asked = together(stream, job.seed) if study.arms[job.name].together else stream
    done = run(study.learner(job.name, job.rate, job.seed), asked, job.folder, settings, progress)
    write_json(job.folder / TOLD, told(done, stream, study.model))
    shutil.rmtree(job.folder / "blobs")


def told(done: Run, stream: Stream, model: str) -> Told:
    """What the table needs: for each version the losses of each domain's documents in nats, and the rest.

    Args:
        done: a finished run.
        stream: the domains, as they were asked, in turn or together.
        model: whose tokens are counted.
    """
    matrix, tokenizer = done.matrix, load_tokenizer(model)
    view = RunView("", 0, done)
    tests = [e.test for e in stream]
    answers = [[o for column in range(len(matrix.names)) for o in row.items(column)] for row in matrix.rows]
    losses = [nats(row, [e for test in tests for e in test], tokenizer) for row in answers]
    ends = [sum(map(len, tests[:i])) for i in range(len(tests) + 1)]
    general = matrix.general.rows if matrix.general else ()
    memory = done.files.versions.get(done.events[-1].version).memory
    return {
        "nats": [[row[a:b] for a, b in pairwise(ends)] for row in losses],
        "sizes": [[len(e.text.encode()) for e in test] for test in tests],
        "general": [fmean(score or 0.0 for score in row.scores) for row in general],
        "looks": view.looks,
        "starts": view.starts,
        "minutes": sum(r["seconds"] for r in view.steps) / 60,
        "tokens": view.cost.tokens,
        "kept": stored(memory),
        "version": done.events[0].version,
    }


def stored(memory: Any) -> int:
    """Bytes of the old examples in a method's memory: their texts, or what is kept in their place."""
    if isinstance(memory, dict) and "rows" in memory:
        return sum(len(Example.from_row(row).text.encode()) for row in memory["rows"])
    if isinstance(memory, dict) and isinstance(memory.get("kept"), list):
        parts = [k[name] for k in memory["kept"] for name in ("states", "where", "targets")]
        return sum(part.numel() * part.element_size() for part in parts)
    return sum(map(stored, memory)) if isinstance(memory, list | tuple) else 0


def bits(found: Told) -> list[list[float]]:
    """Bits per byte of each version, the base first, on each domain."""
    return [[bits_per_byte(*pair) for pair in zip(row, found["sizes"], strict=True)] for row in found["nats"]]


def forgetting(matrix: Sequence[Sequence[float]]) -> float | None:
    """The mean rise of bits per byte on all domains but the last, from just learned to the end; None together."""
    last = len(matrix) - 1
    return fmean(matrix[last][i] - matrix[i + 1][i] for i in range(last - 1)) if last > 1 else None


def gap(found: Told) -> float | None:
    """How much higher the loss on the first domain was while the second was learned than at its end, in nats a token.

    0 where it was highest at the end; None where nobody looked.
    """
    if len(found["starts"]) < 3 or DOMAINS[0] not in found["looks"]:
        return None
    first, third = found["starts"][1][1], found["starts"][2][1]
    losses = [loss for step, loss in found["looks"][DOMAINS[0]] if first <= step <= third]
    ended = [step for step, _ in found["looks"][DOMAINS[0]]].index(third)
    return max(losses) - float(found["looks"][DOMAINS[0]][ended][1])


def swept(study: Study) -> dict[str, list[Job]]:
    """The runs of the sweep, by arm."""
    names = [name for name in RATES if name in study.arms]
    return {name: [Job(study, name, rate, SWEPT) for rate in RATES[name]] for name in names}


def just_learned(job: Job) -> float:
    """The mean of bits per byte on each domain when it was just learned."""
    found = bits(job.told or {})
    return fmean(found[i + 1][i] for i in range(len(found) - 1))


def rates(study: Study, quick: bool) -> dict[str, float]:
    """The best rate of each swept arm, of equals the smallest; of a quick study the middle one, which nobody tried."""
    if quick:
        return {name: sorted(known)[1] for name, known in RATES.items()}
    return {name: min(jobs, key=lambda job: (just_learned(job), job.rate)).rate for name, jobs in swept(study).items()}
