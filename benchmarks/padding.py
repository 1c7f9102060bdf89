"""A row about padding: the same step with a batch as it is, and laid into fewer rows."""

from collections.abc import Callable
from dataclasses import replace

from benchmarks import inputs, ours
from benchmarks.harness import ROUNDS, Finding, Goal, Sample, interleave, ratios, speeds
from benchmarks.training import SHORT, close
from everlearn import LanguageModel

ROWS = 8


def padding(quick: bool = False) -> list[Finding]:
    """Demonstrations of unlike lengths, in batches that are laid into fewer rows, and as they are."""
    by = ours.learner(replace(SHORT, batch_size=ROWS))
    model = by.open()
    examples = inputs.rows(model, inputs.instruction_sizes(ROWS, 0), 0)
    sizes = [len(model.encode(e).tokens) for e in examples]

    def side() -> Sample:
        return ours.side(by, model, examples)

    found = interleave({"laid": side, "padded": _padded(model, side)}, 1 if quick else ROUNDS, warm=1)
    close(found["laid"][0].value.loss, found["padded"][0].value.loss)
    return [
        Finding(
            f"{ROWS} demonstrations a step, mean {sum(sizes) / ROWS:.0f} tokens, laid together: real tokens/s/core",
            "own padded batch",
            Goal(1.0),
            ratios(found["padded"], found["laid"]),
            f"{speeds(sum(sizes), found['laid']).show(0)} tokens/s",
            f"{speeds(sum(sizes), found['padded']).show(0)} tokens/s",
            f"same rows and loss; {100 * (1 - sum(sizes) / (ROWS * max(sizes))):.0f} % of the batch is padding",
        )
    ]


def _padded(model: LanguageModel, side: Callable[[], Sample]) -> Callable[[], Sample]:
    def padded() -> Sample:
        with model.padded():
            return side()

    return padded
