"""Domains in turn: bits per byte by hand, documents that nobody shares, and a page of the runs of a toy."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.learner import Learner
from everlearn.models.load import load_tokenizer
from everlearn.selecting.criteria import DocumentReader
from everlearn.testing.toys import toy_folder
from everlearn.types import Outcome, Silent
from recipes.domain_runs import Job, Study, bits, forgetting, gap, latent_room, learned, stored
from recipes.domain_texts import DOMAINS, bits_per_byte, domain_stream, gain_interval, nats, pieces, texts, together
from recipes.domains import DRAWN, drawn, written

COUNTS = (6, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("texts")
    for number, name in enumerate(("shakespeare.txt", "wikitext2-valid.txt", "wikitext2-test.txt")):
        lines = (f"line {i} of book {number} says {i * i}." for i in range(2000))
        (made / name).write_text("\n".join(lines), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("study")
    toy = str(toy_folder(out / "toy"))
    return Study(folder, out, *COUNTS[::2], COUNTS[1], 1, 1, (0,), 1, toy, only=("replay_25", "together"))


def test_bits_per_byte_are_of_the_corpus_and_not_the_mean_over_documents() -> None:
    # 3 ln 2 nats on 1 byte and 5 ln 2 on 7: 8 bits on 8 bytes, where the documents' mean is (3 + 5/7) / 2
    losses = [3 * math.log(2), 5 * math.log(2)]
    assert bits_per_byte(losses, [1, 7]) == pytest.approx(1.0, abs=1e-12)


def test_losses_are_had_back_from_likelihoods(study: Study) -> None:
    model = Learner(study.model, dtype="float64", device="cpu").open()
    documents = [Example(text="the cat sat."), Example(text="on a mat, ümlaut.")]
    read = list(DocumentReader(model).losses(documents))
    outcomes = [Outcome(e.key, math.exp(-loss / n)) for e, (loss, n) in zip(documents, read, strict=True)]
    found = nats(outcomes, documents, load_tokenizer(study.model))
    assert found == pytest.approx([loss for loss, _ in read], rel=1e-12)


def test_no_document_stands_in_two_stretches_or_twice() -> None:
    text = "".join(f"{i % 7:04d}" for i in range(20)) + "".join(f"{i:04d}" for i in range(80))
    learnt, watched, asked = pieces(text, 4)
    # 87 different pieces, since the first 20 are 7; 0007 and on come once more, 0000 to 0006 do not
    assert (len(learnt), len(watched), len(asked)) == (56, 8, 16)
    assert len({*learnt, *watched, *asked}) == 80


def test_seeds_learn_other_documents_and_are_asked_the_same(folder: Path) -> None:
    one, other, sweep = (domain_stream(folder, seed, COUNTS, seed == 100) for seed in (0, 1, 100))
    for a, b, c in zip(one, other, sweep, strict=True):
        assert [len(part) for part in (a.train, a.validation, a.test)] == list(COUNTS)
        assert a.test == b.test
        assert a.train != b.train
        assert len({e.key for e in (*a.train, *a.validation, *a.test, *c.test)}) == sum(COUNTS) + COUNTS[2]
    assert one.names == DOMAINS
    mixed = together(one, 0).experiences[0]
    assert {e.key for e in mixed.train} == {e.key for experience in one for e in experience.train}
    assert [e.key for e in mixed.test] == [e.key for experience in one for e in experience.test]


def test_too_few_documents_and_missing_files_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="documents in a stretch"):
        domain_stream(folder, 0, (10_000, 2, 3))
    with pytest.raises(ConfigError, match="--text"):
        texts("shakespeare", tmp_path)


def test_states_take_hundreds_of_times_the_bytes_of_their_text() -> None:
    # a document of 3 tokens of width 5: 2 * 3 * 5 + 4 * 2 + 3 = 41 bytes
    assert latent_room(82, 3, 5) == 2
    assert latent_room(81, 3, 5) == 1
    kept = {"states": torch.zeros(3, 5, dtype=torch.bfloat16), "where": torch.ones(3, dtype=torch.bool)}
    kept["targets"] = torch.zeros(2, dtype=torch.int32)
    assert stored([None, {"kept": [kept], "seen": 9}]) == 41
    assert stored([{"rows": [Example(text="ü!").row()]}]) == 3


def test_forgetting_is_the_rise_since_a_domain_was_learned() -> None:
    matrix = [[3.0, 3.0, 3.0], [1.0, 3.0, 3.0], [2.0, 1.0, 3.0], [2.5, 2.0, 1.0]]
    assert forgetting(matrix) == pytest.approx(((2.5 - 1.0) + (2.0 - 1.0)) / 2)
    assert forgetting([[3.0], [1.0]]) is None


def test_the_gap_is_the_highest_loss_on_the_way_over_that_at_the_end() -> None:
    looks = {DOMAINS[0]: [[4, 1.0], [6, 3.0], [8, 2.5], [8, 2.5], [12, 9.0]]}
    assert gap({"starts": [["a", 0], ["b", 4], ["c", 8]], "looks": looks}) == pytest.approx(0.5)
    assert gap({"starts": [["together", 0]], "looks": {}}) is None


def test_an_interval_is_of_the_same_documents_under_both() -> None:
    losses, sizes = [[5.0, 9.0, 1.0], [4.0, 2.0, 7.0]], [[1, 1, 1], [2, 2, 2]]
    more = [[x + size * math.log(2) for x, size in zip(*pair, strict=True)] for pair in zip(losses, sizes, strict=True)]
    assert gain_interval(more, losses, sizes) == pytest.approx((1.0, 1.0, 1.0))
    mean, low, high = gain_interval([[5.0, 9.0, 4.0], [4.0, 2.0, 7.0]], losses, sizes)
    assert mean == pytest.approx(3.0 / 3 / math.log(2) / 2)
    assert low == 0.0 < mean < high


def test_the_runs_of_a_toy_make_a_page_that_keeps_its_figures(study: Study) -> None:
    jobs = {name: [Job(study, name, 1e-2, seed) for seed in study.seeds] for name in study.arms}
    for own in jobs.values():
        for job in own:
            learned(job, Silent())
    found = {name: [job.told or {} for job in own] for name, own in jobs.items()}
    first = found["plain"][0]
    assert bits(first)[0] == bits(found["replay_25"][0])[0], "the base is the same for all"
    assert fallen(bits(first))
    assert first["kept"] == 0 < found["replay_25"][0]["kept"]
    page = written(study, found, dict.fromkeys(jobs, 1e-2))
    assert page.startswith("# Three domains")
    assert "3 of 3 runs" in page
    assert "| plain | wikipedia |" in page
    assert "| together | all |" in page
    assert not (jobs["plain"][0].folder / "blobs").exists()
    drawn(found, study.out)
    files = sorted(file.stem for file in study.out.glob("*.svg"))
    assert files == sorted(f"domains-{name}" for name in DRAWN if name in jobs)
    assert (study.out / "domains-plain.svg").read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def fallen(matrix: list[list[float]]) -> bool:
    """Whether each domain was foreseen better when it was learned."""
    return all(matrix[i + 1][i] < matrix[i][i] for i in range(3))


def test_arms_differ_in_one_thing_and_a_cut_at_nothing_leaves_latent_replay_out(study: Study) -> None:
    whole = replace(study, only=())
    assert {"latent_bytes", "latent_documents"} <= set(whole.arms)
    assert not {"latent_bytes", "latent_documents"} & set(replace(whole, frozen=0).arms)
