import ast
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.data import stream_file
from everlearn.data.layouts import LAYOUTS
from everlearn.data.mixes import Mix, Phase
from everlearn.data.stream_file import load_stream, read_stream, stream_schema
from everlearn.errors import ConfigError, DataError
from everlearn.metrics.likelihood import Choice, TokenAccuracy
from everlearn.metrics.text import ExactMatch
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.rewards.text import Exact
from everlearn.types import Experience, Reply

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder with data, in which to write a stream file."""
    for name in ("a", "b"):
        for part, count in (("train", 100), ("test", 20)):
            rows = [{"prompt": f"{name} {part} {i}", "response": ("yes", "no")[i % 2]} for i in range(count)]
            (tmp_path / f"{name}-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "trace"
    folder.mkdir()
    for part, count in (("train", 50), ("eval", 5), ("test", 8)):
        (folder / f"{part}.json").write_text(
            json.dumps([{"prompt": f"{part} {i}", "answer": "C"} for i in range(count)])
        )
    (tmp_path / "text.txt").write_text("".join(f"This is paragraph {i}.\n\n" * 40 for i in range(60)))

    def write(text: str, name: str = "stream.yaml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


A = "  - {name: a, train: a-train.jsonl, test: a-test.jsonl}\n"
B = "  - {name: b, train: b-train.jsonl, test: b-test.jsonl}\n"


def only(path: Path) -> Experience:
    (experience,) = load_stream(path)
    return experience


def test_a_stream_file_names_its_experiences_in_order(write: Write) -> None:
    stream = load_stream(write(f"name: mine\nexperiences:\n{B}{A}"))
    assert (stream.name, stream.names, stream.scenario, stream.online) == ("mine", ("b", "a"), "domain", False)
    for e in stream:
        assert (len(e.train) + len(e.validation), len(e.test)) == (100, 20)
        assert {x.origin for x in (*e.train, *e.validation, *e.test)} == {e.name}
        assert e.metric == ExactMatch()
    assert stream.experiences[1].test[2].source.endswith("a-test.jsonl:3")
    assert load_stream(write(f"experiences:\n{A}", "films.yaml")).name == "films"


def test_order_is_a_list_or_a_seed(write: Write) -> None:
    assert load_stream(write(f"order: [a, b]\nexperiences:\n{B}{A}")).names == ("a", "b")
    drawn = {load_stream(write(f"order: {{seed: {seed}}}\nexperiences:\n{B}{A}")).names for seed in range(8)}
    assert drawn == {("a", "b"), ("b", "a")}
    with pytest.raises(ConfigError, match=r"stream\.yaml:1: order: .*is not a permutation of \['b', 'a'\]"):
        load_stream(write(f"order: [a, c]\nexperiences:\n{B}{A}"))


def test_the_scenario_decides_what_reaches_inference_and_how_it_is_judged(write: Write) -> None:
    own = A.replace("}", ", labels: ['yes', 'no']}") + B.replace("}", ", labels: ['no', 'yes', 'maybe']}")
    task, domain, classes = (
        load_stream(write(f"scenario: {scenario}\nexperiences:\n{own}")) for scenario in ("task", "domain", "class")
    )
    assert [e.candidates for e in task] == [("yes", "no"), ("no", "yes", "maybe")]
    assert [e.candidates for e in classes] == [("maybe", "no", "yes")] * 2
    assert [e.candidates for e in domain] == [(), ()]
    assert [[e.metric for e in stream] for stream in (task, classes, domain)] == [[Choice()] * 2] * 2 + [
        [ExactMatch()] * 2
    ]
    shared = load_stream(write("experiences:\n" + own.replace(", 'maybe'", "")))
    assert [e.metric for e in shared] == [Choice()] * 2


def test_online_and_blurry_are_applied(write: Write) -> None:
    stream = load_stream(write(f"online: true\nblurry: {{fraction: 0.2, seed: 1}}\nexperiences:\n{A}{B}"))
    assert stream.online
    moved = [sum(x.origin != e.name for x in e.train) for e in stream]
    plain = load_stream(write(f"experiences:\n{A}{B}"))
    assert moved[::-1] == [round(0.2 * len(e.train)) for e in plain]
    assert [e.test for e in stream] == [e.test for e in plain]
    assert load_stream(write(f"blurry: 0\nexperiences:\n{A}{B}")).names == ("a", "b")


def test_a_folder_in_the_trace_layout_is_one_experience(write: Write) -> None:
    e = only(write("experiences:\n  - {name: t, path: trace}"))
    assert (len(e.train), len(e.validation), len(e.test)) == (50, 5, 8)
    swapped = only(write("experiences:\n  - {name: t, path: trace, splits: {test: eval}, validation: trace/test.json}"))
    assert (len(swapped.train), len(swapped.validation), len(swapped.test)) == (50, 8, 5)


def test_a_folder_of_published_folders_is_a_stream(write: Write, tmp_path: Path) -> None:
    (tmp_path / "all" / "SC").mkdir(parents=True)
    (tmp_path / "trace").rename(tmp_path / "all" / "SC" / "films")
    (tmp_path / "b-train.jsonl").rename(tmp_path / "all" / "train.jsonl")
    with pytest.raises(DataError, match=r"stream\.yaml: experiences\[0\]: there are no test rows"):
        load_stream(tmp_path / "all")
    (tmp_path / "b-test.jsonl").rename(tmp_path / "all" / "test.jsonl")
    assert load_stream(tmp_path / "all").names == ("all", "films")
    write(f"name: mine\nexperiences:\n{A}")
    assert load_stream(tmp_path).name == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no stream\.yaml, and no folder in it has a train"):
        load_stream(tmp_path / "empty")


def test_parts_may_be_held_out_of_the_training_rows(write: Write) -> None:
    e = only(
        write("experiences:\n  - {name: a, train: a-train.jsonl, test: {fraction: 0.2}, validation: {fraction: 0.3}}")
    )
    keys = [{x.key for x in part} for part in (e.train, e.validation, e.test)]
    assert sum(map(len, keys)) == 100 == len(set.union(*keys))
    assert all(len(part) > 5 for part in keys)
    none = only(write("experiences:\n" + A.replace("}", ", validation: {fraction: 0}}")))
    assert (len(none.train), len(none.validation)) == (100, 0)


def test_a_text_is_learned_as_documents(write: Write) -> None:
    e = only(write("experiences:\n  - {name: t, train: text.txt, test: {fraction: 0.2}, signal: documents}"))
    assert e.metric == TokenAccuracy()
    assert all(x.text for x in (*e.train, *e.test))


def test_a_limit_leaves_some_rows_of_each_part(write: Write) -> None:
    e = only(write("experiences:\n" + A.replace("}", ", limit: 60}")))
    assert (len(e.train) + len(e.validation), len(e.test)) == (60, 20)
    e = only(write("experiences:\n" + A.replace("}", ", limit: {train: 60, test: 7}}")))
    assert (len(e.train) + len(e.validation), len(e.test)) == (60, 7)


def test_an_experience_may_be_longer_than_the_recipe_says(write: Write) -> None:
    stream = load_stream(write("experiences:\n" + A + B.replace("}", ", length: 4096}")))
    assert [e.length for e in stream.experiences] == [None, 4096]
    with pytest.raises(ConfigError, match="length: 1 is not an integer of 2 or more"):
        load_stream(write("experiences:\n" + A.replace("}", ", length: 1}")))


def test_an_objective_is_taken_from_the_file(write: Write) -> None:
    e = load_stream(
        write("experiences:\n" + A.replace("}", ', objective: "PolicyGradient(Exact(), group=4)"}'))
    ).experiences[0]
    assert e.objective == PolicyGradient(Exact(), group=4)
    with pytest.raises(ConfigError, match=r"2: experiences.0.: .*is no objective; give one such as NextToken"):
        load_stream(write("experiences:\n" + A.replace("}", ", objective: Exact()}")))


def test_fields_and_metric_are_taken_from_the_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("question,reply\n" + "".join(f"q{i},r{i}\n" for i in range(30)))
    e = only(
        write(
            "experiences:\n"
            "  - name: q\n"
            "    train: q.csv\n"
            "    test: {path: q.csv}\n"
            "    layout: {prompt: question, response: reply}\n"
            "    metric: ExactMatch(ignore_case=True)\n"
        )
    )
    assert e.metric == ExactMatch(ignore_case=True)
    assert e.test[3].response == "r3"


def test_bad_rows_are_counted_set_aside_and_above_the_limit_stop_the_run(write: Write, tmp_path: Path) -> None:
    with (tmp_path / "a-train.jsonl").open("a") as file:
        file.write("broken\n" * 5)
    path = write(f"experiences:\n{B}{A}")
    found = read_stream(path, tmp_path / "aside.jsonl")
    stream, rejects = found.stream, found.rejects
    assert found.bad_rows == 0.05
    assert [(r.source, r.row) for r in rejects] == [
        (f"{tmp_path}/a-train.jsonl:{i}", "broken") for i in range(101, 106)
    ]
    aside = (tmp_path / "aside.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in aside] == [r.source for r in rejects]
    assert len(stream.experiences[1].train) + len(stream.experiences[1].validation) == 100
    with pytest.warns(UserWarning, match=r"5 bad rows were left out: .*a-train\.jsonl:101"):
        load_stream(path)
    strict = write(f"bad_rows: 0.01\nexperiences:\n{B}{A}")
    (tmp_path / "aside.jsonl").unlink()
    with pytest.raises(DataError, match=r"stream\.yaml:4: experiences\[1\]: 5 of 105 rows are bad"):
        read_stream(strict, tmp_path / "aside.jsonl")
    assert len((tmp_path / "aside.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiences:\n  - {name: a, trian: x}", "2: experiences.0..trian: unknown key; did you mean 'train'"),
        ("experiences:\n  - {name: a}", "2: experiences.0.: it has no rows; give one of path, train, task"),
        ("experiences:\n  - {name: a, train: x, path: y}", r"2: experiences.0.: it has \['path', 'train'\]; give one"),
        ("experiences:\n" + A + A, r"experiences: stream 'stream': names stand twice: \['a'\]; rename"),
        (
            "experiences:\n  - {name: a, train: a-trian.jsonl}",
            r"2: experiences.0..train: .*did you mean a-train\.jsonl",
        ),
        ("experiences:\n  - {name: a, path: nowhere}", "2: experiences.0..path: there is no file or folder"),
        ("experiences:\n  - {name: a, path: trace, splits: {test: dev2}}", "path: .*for the split 'dev2'"),
        (
            "experiences:\n  - {name: a, train: a-train.jsonl}",
            r"there are no test rows; give `test: FILE`, or `test: \{fr",
        ),
        ("experiences:\n" + A.replace("}", ", splits: {test: x}}"), "splits: these are names of the splits of a path"),
        ("experiences:\n" + A.replace("}", ", signal: documents}"), "its signal is documents, but .*:1 is a demonstr"),
        ("experiences:\n" + A.replace("}", ", metric: ExactMach()}"), "2: experiences.0.: .*did you mean"),
        ("experiences:\n" + A.replace("}", ", metric: LoRA()}"), "2: experiences.0.: .*is no metric"),
        (
            "experiences:\n" + A.replace("}", ", labels: ['yes', 'maybe']}"),
            r"the answer 'no' of .*a-test\.jsonl:2 is none",
        ),
        ("experiences:\n" + A.replace("}", ", labels: [yes, no]}"), "labels.0.: True is not a text; put it in quotes"),
        ("experiences:\n" + A.replace("}", ", layout: tracee}"), "layout: 'tracee' is not known; did you mean 'trace'"),
        (
            "experiences:\n" + A.replace("}", ", layout: trace}"),
            "train: .*none of its 100 rows.*lacks the field 'answer'",
        ),
        (
            "experiences:\n" + A.replace("}", ", validation: {fracton: 0.1}}"),
            "fracton: unknown key; did you mean 'frac",
        ),
        ("experiences:\n" + A.replace("name: a", "name: a/b"), "2: experiences.0.: experience name 'a/b': use letters"),
        ("scenario: class\nexperiences:\n" + A, "2: experiences: class-incremental streams need labels"),
        ("blurry: 0.1\nexperiences:\n" + A, "1: blurry: "),
        ("blurry: 2\nexperiences:\n" + A, "1: blurry: 2 is not a number"),
        ("name: x", "1: 'experiences' is missing"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(write: Write, text: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=r"(?s)stream\.yaml:.*" + message):
        load_stream(write(text))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        load_stream(tmp_path / "none.yaml")


def test_tasks_are_drawn_once_and_cut_in_two(write: Write) -> None:
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")
    task = "task: {name: chain_sum, size: %d, test_size: 20, seed: 3, parameters: {max_digits: 2}}"
    e = only(write(f"experiences:\n  - {{name: sums, {task % 80}}}"))
    more = only(write(f"experiences:\n  - {{name: sums, {task % 120}}}"))
    questions = [x.messages[0].content for part in (e.train, e.validation, e.test) for x in part]
    assert len(questions) == 100 == len(set(questions))
    assert more.test == e.test
    assert e.metric.score(e.test[0], Reply(e.test[0].response)) == 1.0


def test_a_task_without_reasoning_gym_says_how_to_install_it(write: Write) -> None:
    if find_spec("reasoning_gym"):
        pytest.skip("reasoning-gym is installed, so that nothing is missing.")
    path = write("experiences:\n  - {name: sums, task: {name: chain_sum, size: 10}}")
    with pytest.raises(ConfigError, match=r"experiences\[0\]\.task: .*pip install 'everlearn\[rl\]'"):
        load_stream(path)


EVERYTHING = """
name: x
scenario: task
order: {seed: 1}
online: true
blurry: {fraction: 0.1, seed: 2}
bad_rows: 0.1
experiences:
  - name: a
    train: {path: a-train.jsonl}
    validation: {fraction: 0.1}
    test: {path: ., split: a-test}
    signal: demonstrations
    layout: auto
    objective: NextToken()
    length: 512
    metric: Choice()
    labels: ["yes", "no"]
    limit: {train: 90, validation: 5, test: 9}
  - {name: t, path: trace, splits: {train: train, validation: eval, test: test}}
"""


def test_all_keys_of_the_published_schema_are_read_and_no_others(write: Write) -> None:
    stream = load_stream(write(EVERYTHING))
    assert (len(stream), stream.scenario, stream.online, stream.name) == (2, "task", True, "x")
    schema, data = stream_schema(), yaml.safe_load(EVERYTHING)
    assert set(data) == set(schema["properties"])
    assert set(data["experiences"][0]) | {"path", "splits", "task"} == set(schema["$defs"]["experience"]["properties"])
    code = ast.walk(ast.parse(Path(stream_file.__file__).read_text(encoding="utf-8")))
    words = {node.value for node in code if isinstance(node, ast.Constant)}
    assert words >= set(properties(schema))
    assert set(schema["$defs"]["experience"]["properties"]["layout"]["anyOf"][0]["enum"]) == {"auto", *LAYOUTS}


def properties(schema: dict[str, Any]) -> Iterator[str]:
    yield from schema.get("properties", {})
    for part in parts_of(schema):
        yield from properties(part)


def parts_of(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
    inner += [schema.get("items"), schema.get("additionalProperties")]
    return [part for part in inner if isinstance(part, dict)]


def test_the_schema_uses_only_words_that_the_checker_knows() -> None:
    known = {
        *("$schema", "title", "description", "default", "$defs", "$ref", "anyOf", "enum", "type", "properties"),
        *("required", "additionalProperties", "items", "minItems", "minLength", "minimum", "maximum"),
    }

    pending = [stream_schema()]
    while pending:
        schema = pending.pop()
        assert set(schema) <= known
        pending += parts_of(schema)


def test_real_benchmarks_are_a_stream(shared: Path, write: Write) -> None:
    text = (
        "scenario: task\n"
        "experiences:\n"
        f"  - {{name: FOMC, path: '{shared}/trace-500/FOMC', labels: [A, B, C], limit: 200}}\n"
        f"  - {{name: mnli, path: '{shared}/mtl15/NLI/MNLI', limit: {{train: 200, test: 100}}}}\n"
        f"  - {{name: plays, train: '{shared}/text/shakespeare.txt', test: {{fraction: 0.1}}, limit: 100}}\n"
    )
    found = read_stream(write(text))
    stream, rejects = found.stream, found.rejects
    assert [e.metric for e in stream] == [Choice(), Choice(), TokenAccuracy()]
    # TRACE brings validation rows; from the others a tenth is split off, and Shakespeare gives test rows too.
    assert len(stream.experiences[0].train) == 200
    assert len(stream.experiences[1].train) + len(stream.experiences[1].validation) == 200
    assert sum(len(part) for e in stream.experiences[2:] for part in (e.train, e.validation, e.test)) == 100
    assert len(rejects) == 13


MIX = """
experiences:
  - name: mixed
    train:
      mix: {prose: text.txt, talk: a-train.jsonl}
      phases:
        - {tokens: 2_000, weights: {prose: 1}}
        - {tokens: 1_000, weights: {prose: 1, talk: 3}}
    test: b-test.jsonl
"""


def test_a_mix_is_read_with_its_phases_and_held_out_source_by_source(write: Write) -> None:
    found = only(write(MIX)).train
    assert isinstance(found, Mix)
    assert found.phases == (Phase(2000, {"prose": 1}), Phase(1000, {"prose": 1, "talk": 3}))
    assert list(found.sources) == ["prose", "talk"]
    held = only(write(MIX)).validation
    assert len(found.sources["talk"]) + sum(bool(e.messages) for e in held) == 100
    assert {e.origin for e in found} == {"mixed"}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("prose: 1, talk: 3", "prose: 1, news: 3", r":4: experiences\[0\].train: .*phases that name \['news'\]"),
        ("1_000", "0", "tokens: 0 is not an integer"),
        ("{tokens: 2_000, weights", "{tokens: 2_000, weight", "did you mean 'weights'"),
        ("a-train.jsonl", "nowhere.jsonl", "no file or folder"),
        ("prose: 1, talk: 3", "prose: 1", r"draws nothing from \['talk'\]"),
        ("      phases", "      stages", "did you mean 'phases'|unknown key"),
    ],
)
def test_a_mix_that_cannot_be_drawn_is_told_where_it_stands(write: Write, old: str, new: str, what: str) -> None:
    with pytest.raises((ConfigError, DataError), match=what):
        load_stream(write(MIX.replace(old, new)))
