"""Numbers of tokens that are kept: those of a fresh pass, whoever asks, and shared between processes."""

import multiprocessing
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from everlearn.errors import ModelError
from everlearn.examples import Batch, Example, Plan
from everlearn.models.language_model import LanguageModel
from everlearn.models.token_losses import FILE, TokenLosses
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import question, toy_folder, toy_model

EXAMPLES = [Example(text=t) for t in ("the cat sat.", "a dog", "on the mat, again and again.", "no")]


def batches(tokens: int = 40, packed: bool = True) -> list[Batch]:
    examples = [*EXAMPLES, question("after a?", "bcd")]
    (step,) = NextToken(packed).steps(toy_model(), examples, Plan(8, tokens, 40))
    return list(step.batches)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    return str(toy_folder(tmp_path / "reference", seed=1))


def test_what_is_kept_equals_a_fresh_pass(reference: str, tmp_path: Path) -> None:
    there, model = batches(), LanguageModel.open(reference, "float64", "cpu")
    with closing(TokenLosses(reference, toy_model(), tmp_path)) as losses:
        first = [losses.of(there, kind) for kind in ("loss", "entropy")]
    with closing(TokenLosses(reference, toy_model(), tmp_path)) as losses:
        again = [losses.of(there, kind) for kind in ("loss", "entropy")]
        assert losses._model is None  # all of it was kept, so that nobody opened the reference
    with torch.no_grad():
        fresh = [[-model.token_logprobs(b) for b in there], [model.token_entropies(b) for b in there]]
    for one, two, three in zip(first, again, fresh, strict=True):
        for a, b, c in zip(one, two, three, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c, rtol=0, atol=1e-12)


def test_what_a_text_gets_does_not_depend_on_who_asks_first(reference: str, tmp_path: Path) -> None:
    found = []
    for number, (tokens, packed) in enumerate([(40, True), (1, False), (4096, True)]):
        with closing(TokenLosses(reference, toy_model(), tmp_path / str(number))) as losses:
            losses.of(batches(tokens, packed), "loss")
            found.append(torch.cat(losses.of(batches(), "loss")))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_other_weights_and_other_precisions_are_kept_apart(reference: str, tmp_path: Path) -> None:
    there, parts = batches(), []
    for model in (toy_model(), toy_model(dtype=torch.float32)):
        with closing(TokenLosses(reference, model, tmp_path)) as losses:
            parts.append(torch.cat(losses.of(there, "loss")))
    path = Path(reference) / "model.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(path).items()}, path, {"format": "pt"})
    with closing(TokenLosses(reference, toy_model(), tmp_path)) as losses:
        parts.append(torch.cat(losses.of(there, "loss")))
    assert not torch.equal(parts[0], parts[1])
    torch.testing.assert_close(parts[0], parts[1], rtol=0, atol=1e-5)
    assert not torch.allclose(parts[0], parts[2])


def asked(reference: str, folder: Path, answer: Path) -> None:
    torch.set_num_threads(1)
    with closing(TokenLosses(reference, toy_model(), folder)) as losses:
        torch.save(losses.of(batches(), "loss"), answer)


def test_processes_share_one_file(reference: str, tmp_path: Path) -> None:
    answers = [tmp_path / "one", tmp_path / "two"]
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=asked, args=(reference, tmp_path, answer)) for answer in answers]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    with closing(TokenLosses(reference, toy_model(), tmp_path)) as losses:
        mine = losses.of(batches(), "loss")
        assert losses._model is None
    for answer in answers:
        assert all(map(torch.equal, torch.load(answer), mine))


def test_a_reference_with_other_tokens_is_refused(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "other")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"a":', '"A":'))
    with closing(TokenLosses(str(folder), toy_model(), tmp_path)) as losses, pytest.raises(ModelError, match="tokens"):
        losses.of(batches(), "loss")


def test_a_file_that_is_none_is_named(reference: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        "no database, but a text that is long enough to be taken for the beginning of one\n" * 9
    )
    with pytest.raises(ModelError, match="cannot keep token losses"):
        TokenLosses(reference, toy_model(), tmp_path)
