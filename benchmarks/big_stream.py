"""A stream larger than memory: how much more memory 2 GB of text take than 16 MB.

    python -m benchmarks.big_stream [BYTES]

A text file is generated into a temporary folder, read through a stream.yaml, indexed, split, and learned from for a few
steps of a full `run` with LoRA, Replay and EWC on the toy model, whose own memory does not count beside the file. The
run is then stopped as Ctrl-C stops it, and what the methods do at the end of an experience, and at the beginning of the
next, is done on the whole of it. Peaks are compared part by part, and on Linux measured anew for each part, so that
none hides behind another.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import WhitespaceSplit

from everlearn.data.stream_file import read_stream
from everlearn.errors import Interrupted
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.method import Context, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.replay import Replay
from everlearn.models.optim import Recipe
from everlearn.randomness import generator
from everlearn.testing.toys import toy_folder, toy_tokenizer

BIG, SMALL = 2 * 10**9, 16 * 10**6
BLOCK = 2**20
STEPS = 20
LETTERS = "abcdefghijklmnopqrstuvwxyz      "
STREAM = """name: big
experiences:
  - {name: text, train: train.txt, test: test.txt}
"""


@dataclass
class Stop:
    """Progress that stops the run, as Ctrl-C does, after some optimiser steps."""

    steps: int = 0

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Count steps."""
        self.steps += stage.startswith("learning")
        if self.steps == STEPS:
            os.kill(os.getpid(), signal.SIGINT)


def big_stream(big: int = BIG, small: int = SMALL) -> dict[str, float]:
    """Peak memory of learning from a big file less that of learning from a small one, each in a process of its own.

    Args:
        big: bytes of the one file.
        small: bytes of the other; large enough to fill what is held at a time.
    """
    found = {name: _in_a_process(size) for name, size in (("small", small), ("big", big))}
    peaks = {key: found["big"][key] - found["small"][key] for key in found["big"] if key.endswith("peak")}
    extra = max(peaks.values())
    both = {f"{name}_{key}": value for name, parts in found.items() for key, value in parts.items()}
    return {"extra_bytes": extra, "extra_per_byte": extra / (big - small), **both}


def _in_a_process(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "train.txt", size)
        command = [sys.executable, "-m", "benchmarks.big_stream", "--inside", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"learning from {size} bytes failed:\n{done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def write_text(path: Path, size: int) -> None:
    """Write a file of paragraphs of some 500 characters, no two alike, in the toy's letters.

    Args:
        path: of the file.
        size: its least bytes; the last block is written whole.
    """
    drawn = torch.randint(len(LETTERS), (BLOCK,), generator=generator("text")).tolist()
    text = "".join(LETTERS[i] for i in drawn)
    paragraphs = [text[start : start + 500] for start in range(0, BLOCK, 500)]
    with path.open("w") as file:
        for number in range(-(-size // BLOCK)):
            file.write("".join(f"{number} {place} {p}\n\n" for place, p in enumerate(paragraphs)))


def inside(folder: Path) -> dict[str, float]:
    """In a process of its own: learn from the text in a folder, and say how long each part took and the peak of memory.

    Args:
        folder: holds train.txt; takes the model, the stream file and the run.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (folder / "stream.yaml").write_text(STREAM)
    write_text(folder / "test.txt", 30_000)
    method = chain(LoRA(rank=4), Replay(fraction=0.1), EWC(samples=8))
    learner = Learner(str(_model(folder / "model")), method, Recipe(batch_size=4, tokens=2048), dtype="float32")
    clock, found = time.perf_counter(), {"before": peak_memory()}
    stream, _ = read_stream(folder / "stream.yaml")
    found |= {"documents": len(stream.experiences[0].train), "reading_seconds": time.perf_counter() - clock}
    found["reading_peak"], clock = peak_memory(), time.perf_counter()
    restart_peak()
    stop = Stop()
    try:
        run(learner, stream, folder / "run", Settings(suite=()), stop)
    except Interrupted:
        found |= {"steps": stop.steps, "learning_seconds": time.perf_counter() - clock}
    found["learning_peak"], clock = peak_memory(), time.perf_counter()
    restart_peak()
    model = learner.open()
    method.params(method.init(model), model)
    context = Context(model, stream.experiences[0])
    memory = method.end(method.init(model), context)
    mixed = method.data(memory, stream.experiences[0].train, replace(context, seen=1))
    found |= {"mixed_documents": len(mixed), "end_seconds": time.perf_counter() - clock, "end_peak": peak_memory()}
    return found


def _model(folder: Path) -> Path:
    """The toy, but with words as tokens, so that a document has some 350 of them, as with a tokenizer of real size."""
    toy_folder(folder)
    tokenizer = toy_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save_pretrained(folder)
    return folder


def peak_memory() -> int:
    """Largest resident memory of this process so far, or since `restart_peak`, in bytes.

    On Linux `ru_maxrss` of a process counts its parent's memory before `exec`; VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def restart_peak() -> None:
    """Let the peak be measured from here on, where the system can (proc_pid_clear_refs(5)); elsewhere it goes on."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(inside(Path(sys.argv[2]))))
    else:
        print(json.dumps(big_stream(int(sys.argv[1]) if sys.argv[1:] else BIG), indent=2))
