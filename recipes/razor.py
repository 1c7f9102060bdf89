"""RL's Razor at laptop scale (arXiv:2509.04259): does forgetting follow how far the model moved on the new task?

After the paper's ParityMNIST, on scikit-learn's 1797 digits of 8 x 8 pixels and the perceptron of
`recipes.digits_network`. It first learns two tasks at once: to answer an image by any digit of its parity, and to name
the digit of an image whose pixels stand in another order (the paper has FashionMNIST there, which is not bundled).
Then it learns parity further, in one of four ways, and is asked what it still knows of the other task:

- `one`: SFT on 0 for even and 1 for odd;
- `two`: SFT on 0 or 4 for even and 1 or 5 for odd, drawn for each row;
- `oracle`: SFT on labels drawn from the model as it began, among the right ones: of all right answers the nearest;
- `grpo`: GRPO, 8 attempts at each image, reward 1 for the right parity, no KL term.

Forgetting is the accuracy on the other task that is lost; distance is KL(before || after) over the ten answers, in
nats, the mean over test images of the new task. Each way is tried at four learning rates under five seeds, which also
draw rows and first weights, and a parabola through the origin is fitted to all points together.

    python -m recipes.razor --out runs/razor

It can be stopped and started again. The table beside this file is written from what is there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.examples import Example, Message
from everlearn.files import read_json, write_json
from everlearn.learner import Learner, learn
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.progress import Bars
from everlearn.randomness import generator, permutation
from everlearn.rewards.reward import Answer
from everlearn.types import Experience, Progress, State
from recipes.digits import digits
from recipes.digits_network import PIXELS, AllRight, digits_folder
from recipes.intervals import interval
from recipes.pages import publish

ARMS = ("one", "two", "oracle", "grpo")
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS, BEFORE = 4, 20
"""Passes over the new task's rows, and over those of both before."""
FEW, EARLIER, LATER, TESTS = 50, 500, 900, 360
"""Rows of parity and of the other task before, so that parity is still to be learned; rows of parity then; tests."""
ANSWERS = tuple(f"digit{digit}" for digit in range(10))

Digit = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Parity:
    """1 for an answer of the right answer's parity."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        """See `everlearn.rewards.reward.Reward`."""
        wanted = ANSWERS[ANSWERS.index(example.response) % 2 :: 2]
        return [float(r.text in wanted) for r in replies]


@dataclass(frozen=True)
class Setting:
    """A seed's rows and base model.

    Args:
        seed: of everything.
        folder: of the untrained network.
        rows: images, shuffled: earlier ones, later ones, and those of the tests.
    """

    seed: int
    folder: Path
    rows: tuple[Digit, ...]

    @property
    def earlier(self) -> list[Example]:
        """Rows of both tasks."""
        found = self.rows[:EARLIER]
        drawn = torch.randint(5, (FEW,), generator=generator(self.seed, "earlier")).tolist()
        parity = [asked(image, 2 * d + digit % 2) for (image, digit), d in zip(found[:FEW], drawn, strict=True)]
        return parity + [asked(self.turned(image), digit) for image, digit in found]

    @property
    def later(self) -> Sequence[Digit]:
        """Images of the new task's training rows."""
        return self.rows[EARLIER : EARLIER + LATER]

    @property
    def tests(self) -> Sequence[Digit]:
        """Images of the tests."""
        return self.rows[EARLIER + LATER :][:TESTS]

    def turned(self, image: Sequence[int]) -> tuple[int, ...]:
        """The image of the other task: its pixels in another order."""
        return tuple(image[i] for i in permutation(PIXELS, self.seed, "pixels"))


def setting(seed: int, out: Path) -> Setting:
    """The rows and the network of a seed."""
    found = digits()
    rows = tuple(found[i] for i in permutation(len(found), seed, "rows"))
    return Setting(seed, digits_folder(out / "models" / f"{seed}", {"all": ANSWERS}, False, seed), rows)


def asked(image: Sequence[int], answer: int) -> Example:
    """An image and its answer."""
    return Example(messages=(Message("user", " ".join(map(str, image))), Message("assistant", ANSWERS[answer])))


def taught(
    learner: Learner, model: LanguageModel, state: State, rows: Sequence[Example], name: str, reward: bool
) -> State:
    """The state after the rows were learned."""
    objective = (
        PolicyGradient(Parity(), rollout=SingleTurn(Sampling(limit=2)), scale="group") if reward else NextToken()
    )
    return learn(learner, model, state, Experience(name, rows, rows[:1], objective, AllRight()))


@cache
def begun(place: Setting) -> State:
    """The base: what is known before the new task is learned further."""
    learner = learner_of(place, 1e-3, BEFORE)
    model = learner.open()
    return taught(learner, model, learner.start(model), place.earlier, "earlier", False)


def learner_of(place: Setting, rate: float, epochs: int) -> Learner:
    """Full training of the network."""
    recipe = Recipe(AdamW(learning_rate=rate, clip=None), Schedule("constant", warmup=0.0), epochs, 16, 80, 1 << 15)
    return Learner(str(place.folder), recipe=recipe, seed=place.seed, dtype="float32", device="cpu")


def later_rows(place: Setting, arm: str, before: Tensor) -> list[Example]:
    """The new task's rows with the arm's labels, all passes one after the other, so that each draws anew.

    Args:
        place: the seed's rows.
        arm: one of ARMS; the labels of "grpo" are seen by the reward alone.
        before: (rows, 10) what the base answers.
    """
    draw = generator(place.seed, arm, "labels")
    wrong = torch.tensor([[answer % 2 != digit % 2 for answer in range(10)] for _, digit in place.later])
    right = before.masked_fill(wrong, 0)
    lowest = torch.tensor([digit % 2 for _, digit in place.later])
    labels: Mapping[str, Callable[[], Tensor]] = {
        "one": lambda: lowest,
        "two": lambda: lowest + 4 * torch.randint(2, lowest.shape, generator=draw),
        "oracle": lambda: torch.multinomial(right, 1, generator=draw)[:, 0],
        "grpo": lambda: lowest,
    }
    passes = [labels[arm]().tolist() for _ in range(1 if arm == "grpo" else EPOCHS)]
    return [asked(image, one) for drawn in passes for (image, _), one in zip(place.later, drawn, strict=True)]


def answers(model: LanguageModel, images: Sequence[Sequence[int]]) -> Tensor:
    """(images, 10) the probability of each answer, in float64."""
    batch = collate([Row((model.encode(asked(image, 0)),)) for image in images])
    (first, *_) = (model.encode_choice(asked(images[0], 0).prompt, answer)[1][0] for answer in ANSWERS)
    logits = model.said(batch).logits(slice(0, batch.tokens.numel()))[::2, first : first + len(ANSWERS)]
    return logits.double().softmax(-1)


def measured(place: Setting, arm: str, rate: float) -> dict[str, float]:
    """What a run has learned, lost, and how far it went."""
    learner = learner_of(place, rate, EPOCHS if arm == "grpo" else 1)
    model = learner.restore(learner.open(), begun(place))
    plain, turned = [image for image, _ in place.tests], [place.turned(image) for image, _ in place.tests]
    truth = torch.tensor([digit for _, digit in place.tests])
    old, other = answers(model, plain), answers(model, turned)
    rows = later_rows(place, arm, answers(model, [image for image, _ in place.later]))
    taught(learner, model, begun(place), rows, "parity", arm == "grpo")
    new = answers(model, plain)
    return {
        "gained": _share(new.argmax(-1) % 2 == truth % 2) - _share(old.argmax(-1) % 2 == truth % 2),
        "parity": _share(new.argmax(-1) % 2 == truth % 2),
        "forgotten": _share(other.argmax(-1) == truth) - _share(answers(model, turned).argmax(-1) == truth),
        "distance": float((old * (old.clamp(min=1e-12).log() - new.clamp(min=1e-12).log())).sum(-1).mean()),
    }


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def points(out: Path, seeds: Sequence[int], progress: Progress) -> dict[tuple[str, float], list[dict[str, float]]]:
    """All runs; those that are done are read."""
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    plan = list(product(seeds, ARMS, RATES))
    for done, (seed, arm, rate) in enumerate(plan):
        progress.update("runs", done, len(plan), f"{arm}, rate {rate:g}, seed {seed}")
        file = out / f"{arm}-{rate:g}-{seed}.json"
        if not file.exists():
            write_json(file, measured(setting(seed, out), arm, rate))
        found.setdefault((arm, rate), []).append(read_json(file))
    progress.update("runs", len(plan), len(plan))
    return found


def fitted(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """a, b and R^2 of y = a x + b x^2 by least squares."""
    x, y = np.array(xs), np.array(ys)
    (a, b), *_ = np.linalg.lstsq(np.stack([x, x**2], 1), y, rcond=None)
    left = float(((y - a * x - b * x**2) ** 2).sum())
    return float(a), float(b), 1 - left / float(((y - y.mean()) ** 2).sum())


def page(found: Mapping[tuple[str, float], Sequence[Mapping[str, float]]], seeds: int) -> str:
    """The table and the fits as Markdown."""
    lines = [
        "# RL's Razor on digits",
        "",
        f"`python -m recipes.razor --seeds {seeds}`; {TESTS} test images a seed; mean [95 % t-interval] over {seeds} "
        "seeds. Accuracies in percent, changes in points, distance in nats.",
        "",
        "| way | rate | parity | gained | forgotten | distance |",
        "|---" * 6 + "|",
    ]
    for (arm, rate), runs in found.items():
        cells = [interval([run[name] for run in runs]) for name in ("parity", "gained", "forgotten")]
        lines.append(
            f"| {arm} | {rate:g} | " + " | ".join([*cells, interval([r["distance"] for r in runs], 1, 3)]) + " |"
        )
    lines += [
        "",
        "Forgetting by distance, y = a x + b x^2 (points by nats):",
        "",
        "| points | n | a | b | R2 |",
        "|---" * 5 + "|",
    ]
    for name in ("all", *ARMS):
        runs = [run for (arm, _), mine in found.items() if name in ("all", arm) for run in mine]
        a, b, r2 = fitted([r["distance"] for r in runs], [100 * r["forgotten"] for r in runs])
        lines.append(f"| {name} | {len(runs)} | {a:.1f} | {b:.1f} | {r2:.2f} |")
    return "\n".join([*lines, ""])


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/razor"),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
) -> None:
    """Run what is missing, and write the table beside this file."""
    with Bars() as bars:
        found = points(out, range(seeds), bars)
    publish(Path(__file__).with_suffix(".md"), page(found, seeds))


if __name__ == "__main__":
    typer.run(main)
