"""The six tasks of `mtl15` (arXiv:2310.14152) with the shortest texts, as streams in two orders and two scenarios."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from everlearn.data.sources import read
from everlearn.data.splits import sample, split_validation
from everlearn.data.streams import class_incremental, domain_incremental, experience
from everlearn.files import read_json
from everlearn.types import Experience, Stream

Scenario = Literal["class", "domain"]
SCENARIOS: tuple[Scenario, ...] = ("class", "domain")
TASKS: Mapping[str, str] = {
    "SST-2": "SC/SST-2",
    "agnews": "TC/agnews",
    "QQP": "QQP/QQP",
    "dbpedia": "TC/dbpedia",
    "MNLI": "NLI/MNLI",
    "WiC": "WiC/WiC",
}
ORDERS = (("SST-2", "agnews", "QQP", "dbpedia", "MNLI", "WiC"), ("WiC", "dbpedia", "MNLI", "SST-2", "QQP", "agnews"))


@cache
def stream(
    data: Path, scenario: Scenario, order: tuple[str, ...], counts: tuple[int, ...], tasks: int, validating: bool
) -> Stream:
    """The tasks one after another; in one process they are read once.

    Args:
        data: the folder mtl15.
        scenario: "domain" has the published prompts, "class" the bare sentences; both offer the labels of all tasks.
        order: names of tasks.
        counts: of training, test and validation rows of each task.
        tasks: how many of the six.
        validating: whether validation rows stand where test rows would.
    """
    found = [_task(data, name, scenario, counts) for name in order if name in list(TASKS)[:tasks]]
    found = [replace(task, test=task.validation) if validating else task for task in found]
    name = f"cft-{scenario}-{ORDERS.index(tuple(order)) + 1}{'-validation' if validating else ''}"
    if scenario == "class":
        return class_incremental(found, name)
    labels = tuple(sorted({label for task in found for label in task.labels}))
    return domain_incremental([replace(task, labels=labels) for task in found], name)


def _task(data: Path, name: str, scenario: Scenario, counts: Sequence[int]) -> Experience:
    layout = {"prompt": "sentence", "response": "label"} if scenario == "class" else "mtl15"
    folder, parts = data / TASKS[name], {}
    labels = read_json(folder / "labels.json")
    for split in ("train", "test"):  # rows without a label are marked "-", which the layout mtl15 refuses
        rows = read(folder / f"{split}.json", layout).examples
        parts[split] = [row for row in rows if row.response in labels]
    train, validation = split_validation(parts["train"])
    chosen = [tuple(sample(p, n)) for p, n in zip((train, parts["test"], validation), counts, strict=True)]
    return experience(name, *chosen, "Choice()", labels)
