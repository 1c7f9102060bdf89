"""A whole run on the toy, as a process of its own: `python story.py MODEL OUT`."""

import sys

import torch

from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.replay import Replay
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_stream

if __name__ == "__main__":
    torch.set_num_threads(1)
    method = chain(LoRA(rank=4), Replay(fraction=0.2), EWC(samples=4))
    recipe = Recipe(AdamW(learning_rate=2e-2), batch_size=4, length=64, epochs=5)
    settings = Settings(suite=(), checkpoint_every=0.0)
    run(Learner(sys.argv[1], method, recipe, dtype="float32"), toy_stream(), sys.argv[2], settings)
