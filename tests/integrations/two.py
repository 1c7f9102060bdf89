"""A lesson in transformers' trainer, by so many processes: `python -m tests.integrations.two OUT COUNT`.

The processes are forks of one that has imported everything; each sees the environment that a launcher gives. The main
one writes the last version's weights.
"""

import pickle
import sys
from pathlib import Path

import torch

from everlearn.integrations.lesson import Lesson
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.anchors import EWC
from everlearn.methods.distillation import LwF
from everlearn.methods.importance import SI
from everlearn.methods.projection import AGEM
from everlearn.methods.replay import Replay
from everlearn.models.parallel import launched
from everlearn.testing.toys import toy_model, toy_stream
from tests.integrations.plain import RECIPE, Plain, arguments
from tests.together import forked

METHOD = chain(Replay(fraction=0.5), EWC(strength=1000.0), LwF(), SI(strength=10.0), AGEM())


def learned(out: Path) -> dict[str, torch.Tensor]:
    """The weights after two experiences, in steps of four rows: two passes of one process, or one of two."""
    model, learner = toy_model(dtype=torch.float32), Learner("toy", METHOD, RECIPE)
    state, passes = learner.start(model), 2 // launched().count
    for experience in (toy_stream().experiences[0], toy_stream().experiences[2]):
        given = arguments(out, gradient_accumulation_steps=passes, average_tokens_across_devices=True)
        trainer = Plain(Lesson(learner, model, state, experience), args=given)
        trainer.train()
        state = trainer.learned()
    return dict(state.weights)


def work(out: Path) -> None:
    torch.set_num_threads(1)
    found = learned(out)
    if launched().main:
        (out / "weights.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    sys.exit(forked(int(sys.argv[2]), "replicated", lambda: work(Path(sys.argv[1]))))
