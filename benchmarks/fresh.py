"""The inside of a process that measures one thing: `python -m benchmarks.fresh module:function '[arguments]'`."""

import json
import pkgutil
import sys

import torch

from benchmarks.harness import peak_memory


def main(target: str, arguments: str) -> None:
    """Run a function and print its result and the peak of memory, as the last line of the output."""
    torch.set_num_threads(1)
    value = pkgutil.resolve_name(target)(*json.loads(arguments))
    print("\n" + json.dumps({"value": value, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
