"""Stories of merged vocabularies: the same new tokens in versions and in directories, and what is not the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from everlearn.combine import merge_weights
from everlearn.errors import ConfigError, ModelError
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.merge_folders import REPORT, Plan, merge_folders
from everlearn.merge_vocabularies import Grown, Vocabulary
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import Soup
from everlearn.methods.sparse_vectors import TIES
from everlearn.methods.vocabulary import GrowVocabulary
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import fold
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.vocabulary import save_grown
from everlearn.tensor_files import Held
from everlearn.testing.toys import question, toy_module, toy_stream, toy_tokenizer
from everlearn.types import Stream

FIRST = len(toy_tokenizer())
RECIPE = Recipe(AdamW(learning_rate=2e-2), batch_size=4, length=64)
WHOLE = GrowVocabulary(("<a>", "<b>"), trains="all")
BESIDE = chain(LoRA(rank=2), GrowVocabulary(("<a>", "<b>"), trains="all"))
"""Grown with new rows and adapters that learn."""


def base(folder: Path, rows: int = FIRST, tied: bool = True) -> Path:
    """A toy with so many rows for its tokens."""
    module: Any = toy_module(0, torch.float32)
    if not tied:
        torch.manual_seed(5)
        module = LlamaForCausalLM(LlamaConfig.from_dict({**module.config.to_dict(), "tie_word_embeddings": False}))
    module.resize_token_embeddings(rows)
    module.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def learned(folder: Path, place: Path, method: Method, seed: int) -> LanguageModel:
    """A run's folder beside its base, with one version; and the model that it holds."""
    rows = tuple(question("after <a>?", "<b>", str(i + seed)) for i in range(4))
    experience = replace(toy_stream().experiences[0], train=rows, test=rows[:2], validation=())
    learner = Learner(str(place), method, RECIPE, dtype="float32", seed=seed, device="cpu")
    made = run(learner, Stream((experience,)), folder, Settings(suite=()))
    return learner.restore(learner.open(), made.files.versions.get(made.events[-1].version))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def saved(model: LanguageModel, folder: Path) -> Path:
    fold(model.module)
    save_grown(model, folder)
    return folder


def is_vocabulary(name: str) -> bool:
    return "embed" in name or "head" in name


def shrunk(weights: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as if no vocabulary had grown: in the places of new rows are the base's, where it has some."""
    new = slice(FIRST, FIRST + 2)
    return {
        n: torch.cat([w[:FIRST], old[n][new], w[new.stop : len(old[n])]]) if is_vocabulary(n) else w
        for n, w in weights.items()
    }


@pytest.mark.parametrize(("first", "count"), [(3, 2), (5, 2), (4, 3), (1, 1), (0, 5)])
def test_new_rows_are_put_in_wherever_blocks_are_cut(first: int, count: int) -> None:
    old, new = torch.arange(10.0).view(5, 2), -torch.arange(1.0, 2 * count + 1).view(count, 2)
    grown = Grown(first, {first + i: str(i) for i in range(count)}, {"w": Held(new)})
    expected = torch.cat([old[:first], new, old[first + count :]])
    for size in range(1, 6):
        for memory in (1, 2**20):  # a row at a time, and all of them
            found = torch.cat(list(grown.spliced("w", old.split(size), memory)))
            assert torch.equal(found, expected)
            assert torch.equal(torch.cat(list(grown.spliced("other", old.split(size), memory))), old)


def test_a_tensor_with_a_row_for_each_token_lies_in_no_numbered_layer() -> None:
    square, vector = Held(torch.zeros(7, 4)), Held(torch.zeros(4))
    weights = {"embed.weight": square, "layers.0.up.weight": square, "norm.weight": vector}
    for settings in ({"vocab_size": 7}, {"text_config": {"vocab_size": 7}}):
        found = Vocabulary.of("base", Path(), weights, settings)
        assert (list(found.tensors), found.rows) == (["embed.weight"], 7)
    assert Vocabulary.of("base", Path(), weights, {}).rows == 0


CASES = [(FIRST, True, WHOLE), (FIRST + 1, True, BESIDE), (FIRST + 5, False, WHOLE), (FIRST, False, BESIDE)]


@pytest.mark.parametrize(("rows", "tied", "method"), CASES)
def test_old_rows_are_merged_by_the_rule_and_new_ones_are_the_mean(
    rows: int, tied: bool, method: Method, tmp_path: Path
) -> None:
    place = base(tmp_path / "base", rows, tied)
    folders = [saved(learned(tmp_path / n, place, method, i), tmp_path / f"{n}_saved") for i, n in enumerate("xy")]
    rule, whole, old = TIES(density=0.4), [tensors(f) for f in folders], tensors(place)
    expected = merge_weights(rule, old, [shrunk(w, old) for w in whole])
    assert sum(map(is_vocabulary, old)) == 2 - tied
    for name in filter(is_vocabulary, old):
        new = [w[name][FIRST : FIRST + 2] for w in whole]
        assert not torch.equal(*new)
        expected[name] = torch.cat([expected[name][:FIRST], (new[0] + new[1]) / 2, expected[name][FIRST + 2 :]])
    versions = [str(tmp_path / n) for n in "xy"]
    for names in ([str(f) for f in folders], versions, [versions[0], str(folders[1])]):
        for memory in (2**28, 2**14):  # as much as there is, and four rows at a time
            merge_folders(tmp_path / "o", str(place), names, rule, Plan(memory=memory))
            found = tensors(tmp_path / "o")
            assert list(found) == list(old)
            for name, weight in found.items():
                torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5)
            shutil.rmtree(tmp_path / "o")


@pytest.mark.parametrize("kind", ["version", "directory"])
def test_the_merged_model_knows_the_new_tokens(kind: str, tmp_path: Path) -> None:
    place = base(tmp_path / "base")
    model = learned(tmp_path / "x", place, WHOLE, 0)
    name = tmp_path / "x" if kind == "version" else saved(model, tmp_path / "saved")
    merge_folders(tmp_path / "o", str(place), [str(name)], Soup())
    read, row = LanguageModel.open(str(tmp_path / "o"), "float32", "cpu"), question("after <a>?", "<b>")
    assert read.encode(row) == model.encode(row) != LanguageModel.open(str(place), "float32", "cpu").encode(row)
    tokens = torch.tensor([read.encode(row).tokens])
    with torch.no_grad():
        torch.testing.assert_close(read.module(input_ids=tokens).logits, model.module(input_ids=tokens).logits)
    assert json.loads((tmp_path / "o" / REPORT).read_text())["new_tokens"] == ["<a>", "<b>"]


def test_rows_are_weighed_and_rows_that_never_learned_are_those_they_began_with(tmp_path: Path) -> None:
    place = base(tmp_path / "base")
    frozen = chain(GrowVocabulary(("<a>", "<b>")), LoRA(rank=2))  # adapters alone learn
    names = [str(saved(learned(tmp_path / "x", place, WHOLE, 0), tmp_path / "saved")), str(tmp_path / "y")]
    model = learned(tmp_path / "y", place, frozen, 1)
    merge_folders(tmp_path / "o", str(place), names, Soup(), Plan((3.0, 1.0)))
    fold(model.module)
    module: Any = model.module
    one, two = tensors(Path(names[0])), module.get_input_embeddings().weight.detach()
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(tensors(tmp_path / "o")[name][FIRST:], 0.75 * one[name][FIRST:] + 0.25 * two[FIRST:])
    with pytest.raises(ConfigError, match=r"weights 2.0, -1.0: rows of new tokens"):
        merge_folders(tmp_path / "p", str(place), names, Soup(), Plan((2.0, -1.0)))
    apart = base(tmp_path / "apart", tied=False)
    learned(tmp_path / "z", apart, frozen, 1)
    with pytest.raises(ModelError, match=r"new rows of lm_head.weight did not learn|new rows of model.embed_tokens"):
        merge_folders(tmp_path / "p", str(apart), [str(tmp_path / "z")], Soup())


def labelled(folder: Path, place: Path, tokens: list[str], rows: int) -> str:
    """The base, with so many rows and these new tokens."""
    shutil.copytree(place, folder)
    module: Any = toy_module(0, torch.float32)
    module.resize_token_embeddings(rows)
    module.save_pretrained(folder)
    tokenizer: Any = toy_tokenizer()
    tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("spare", [0, 5])
def test_vocabularies_that_are_not_the_same_are_refused_by_name_and_size(spare: int, tmp_path: Path) -> None:
    place, out = base(tmp_path / "base", FIRST + spare), tmp_path / "o"
    rows = max(FIRST + 2, FIRST + spare)
    one = labelled(tmp_path / "one", place, ["<a>", "<b>"], rows)
    turned = labelled(tmp_path / "turned", place, ["<b>", "<a>"], rows)
    more = labelled(tmp_path / "more", place, ["<a>", "<b>", "<c>"], max(rows, FIRST + 3))
    old, wide = labelled(tmp_path / "old", place, [], FIRST + spare), labelled(tmp_path / "wide", place, [], FIRST + 9)
    for other, says in {
        turned: rf"one has {rows} rows and the new tokens '<a>' as {FIRST}.*turned {rows} rows .* '<b>' as {FIRST}",
        more: rf"more {max(rows, FIRST + 3)} rows and the new tokens .*'<c>' as {FIRST + 2}, beside .*base",
        old: rf"old {FIRST + spare} rows and no new token",
        wide: rf"\({FIRST + 9}, 32\), and in .*base \({FIRST + spare}, 32\): .* resize its embeddings",
    }.items():
        with pytest.raises(ModelError, match=says):
            merge_folders(out, str(place), [one, other], Soup())
    Path(more, "tokenizer.json").unlink()
    if not spare:
        with pytest.raises(
            ModelError, match=rf"more has {FIRST + 3} rows of tokens, and .* {FIRST}: .*tokenizer.json is not"
        ):
            merge_folders(out, str(place), [more], Soup())
    assert not out.exists()


def test_a_head_with_a_bias_for_each_token_is_refused(tmp_path: Path) -> None:
    place = base(tmp_path / "base", tied=False)
    for folder in (place, Path(labelled(tmp_path / "one", place, ["<a>"], FIRST + 1))):
        found = {**tensors(place), "lm_head.bias": torch.zeros(FIRST)}
        if folder != place:
            found = {n: torch.cat([t, t[:1]]) if is_vocabulary(n) else t for n, t in found.items()}
        save_file(found, folder / "model.safetensors")
    with pytest.raises(ModelError, match="has a bias for each token"):
        merge_folders(tmp_path / "o", str(place), [str(tmp_path / "one")], Soup())


def test_an_added_token_that_is_another_one_is_no_longer_merged(tmp_path: Path) -> None:
    place = base(tmp_path / "base")
    folder = labelled(tmp_path / "one", place, [], FIRST)
    content = Path(folder, "tokenizer.json").read_text()
    Path(folder, "tokenizer.json").write_text(content.replace('"<|user|>"', '"<|human|>"'))
    with pytest.raises(ModelError, match="numbers pieces otherwise"):
        merge_folders(tmp_path / "o", str(place), [folder], Soup())
