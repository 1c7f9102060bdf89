"""Code in completions, tried by the example's tests in the sandbox."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.rewards.reward import Answer, Scores
from everlearn.rewards.sandbox import Finished, Limits, run_code

FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
Test = str | Mapping[str, Any]


@dataclass(frozen=True)
class UnitTests:
    """The fraction of the example's tests that the completion's code passes, or 1 only if it passes all.

    The tests are `metadata["tests"]`: one, or a list, each of them either a text of Python, run below the completion's
    code in the same module (MBPP's asserts; HumanEval's `check` with its call), or `{"stdin": ..., "stdout": ...}` for
    a whole program, whose output is compared but for spaces at the ends of lines and below the last. Each test runs by
    itself in the sandbox; None where there are none.

    A test below the code has passed only once its last line was reached, so that leaving early passes nothing. Code
    that is written to deceive its tests can: an object that equals everything, say. Output is compared outside.

    Args:
        fraction: count each test, rather than all or nothing.
        limits: of each test.
        workers: tests at a time.

    Raises:
        DataError: if the tests of an example are neither.
    """

    fraction: bool = False
    limits: Limits = Limits()
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse to work with nobody."""
        if self.workers < 1:
            raise ConfigError(f"UnitTests: workers is {self.workers}; tests run one at a time at least.")

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        tests = tests_of(example)
        if not tests:
            return [None] * len(replies)
        with ThreadPoolExecutor(self.workers) as pool:
            passed = list(pool.map(lambda reply: self._passed(tests, reply), replies))
        return [sum(each) / len(each) if self.fraction else float(all(each)) for each in passed]

    def results(self, example: Example, reply: Answer) -> tuple[Finished, ...]:
        """How each test of an example ended for a completion, for people; empty where it holds no code."""
        code = code_of(reply.text)
        return tuple(self._run(code, test) for test in tests_of(example)) if code else ()

    def _passed(self, tests: Sequence[Test], reply: Answer) -> list[bool]:
        code, found = code_of(reply.text), []
        for test in tests:
            found.append(code is not None and _holds(test, self._run(code, test)))
            if not (found[-1] or self.fraction):
                break  # the rest cannot change the score
        return found

    def _run(self, code: str, test: Test) -> Finished:
        if isinstance(test, str):
            return run_code(f"{code}\n\n{test}\n", limits=self.limits, name="completion")
        return run_code(code, test["stdin"], self.limits)


def code_of(text: str) -> str | None:
    """The last block of code between fences, be it closed or not; the whole text without fences; None if blank."""
    blocks = FENCE.findall(text)
    code = str(blocks[-1]) if blocks else text
    return code if code.strip() else None


def tests_of(example: Example) -> tuple[Test, ...]:
    """The tests of an example.

    Raises:
        DataError: if they are neither texts nor stdin with stdout.
    """
    given = example.metadata.get("tests") or ()
    tests = tuple(given) if isinstance(given, list | tuple) else (given,)
    for test in tests:
        if not _is_test(test):
            raise DataError(
                f"{example.source or 'an example'}: the test {test!r} is neither a text of Python nor a mapping of "
                "stdin and stdout; correct its metadata['tests']."
            )
    return tests


def _is_test(test: Any) -> bool:
    """Whether it is code, which a blank text is not: it would pass anything; or what a program reads and prints."""
    if isinstance(test, Mapping):
        return all(isinstance(test.get(name), str) for name in ("stdin", "stdout"))
    return isinstance(test, str) and bool(test.strip())


def _holds(test: Test, finished: Finished) -> bool:
    if finished.status != "passed":
        return False
    return finished.ended if isinstance(test, str) else _lines(finished.stdout) == _lines(test["stdout"])


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
