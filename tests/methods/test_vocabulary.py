"""Vocabularies grown in a stream: which rows learn, how they begin, what old tokens are told, and a saved version."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.files import append_jsonl
from everlearn.fold import Settings, run
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.vocabulary import GrowVocabulary
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.vocabulary import Growth, grow_vocabulary, save_grown
from everlearn.run_folder import RunFolder
from everlearn.testing.toys import question, toy_folder, toy_model, toy_stream
from everlearn.types import Experience, State, Stream

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=128)
ITEMS = [
    {"token": "<item_1>", "description": "ab", "metadata": {"genre": ["x", "y"]}},
    {"token": "<item_2>", "description": "cd", "metadata": {"genre": ["x"]}},
    {"token": "<item_3>", "description": "ef", "metadata": {"genre": ["x", "y"]}, "joins": "second"},
    {"token": "<item_4>", "description": "gh", "metadata": {"genre": ["z"]}, "joins": "second"},
]


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    for row in ITEMS:
        append_jsonl(tmp_path / "items.jsonl", row)
    return str(tmp_path / "items.jsonl")


def experience(name: str) -> Experience:
    rows = tuple(question(f"after <item_{i}>?", f"<item_{1 + i % 4}>", str(i)) for i in range(1, 5))
    return replace(toy_stream().experiences[0], name=name, train=rows, test=rows[:2], validation=())


def taught(method: Method, *names: str) -> tuple[LanguageModel, State]:
    learner, model = Learner("toy", method, RECIPE), toy_model()
    state = learner.start(model)
    for name in names:
        state = learn(learner, model, state, experience(name))
    return model, state


def embedding(model: LanguageModel) -> Tensor:
    module: Any = model.module
    found: Tensor = module.get_input_embeddings().weight.detach()
    return found


def begun(method: GrowVocabulary, model: LanguageModel, memory: Any, name: str, seen: int) -> list[list[float]]:
    made = method.begin(memory, Context(model, experience(name), seen=seen))
    return made["growths"][-1]["rows"].tolist()  # type: ignore[no-any-return]


def test_rows_begin_at_the_mean_of_their_pieces_or_of_similar_items(catalogue: str) -> None:
    method, model = GrowVocabulary(catalogue=catalogue, warm="similar", noise=0.0), toy_model()
    old, letters = embedding(model).clone(), model.tokenizer.get_vocab()
    memory = method.begin(method.init(model), Context(model, experience("first")))
    pieces = [(old[letters[a]] + old[letters[b]]) / 2 for a, b in ("ab", "cd")]
    assert torch.allclose(memory["growths"][0]["rows"], torch.stack(pieces))  # none was there that it could be like
    method.params(memory, model)
    # <item_3> shares x and y with <item_1> (likeness 1) and x of both with <item_2> (1/2); nothing is like <item_4>
    expected = [(pieces[0] + pieces[1] / 2) / 1.5, (old[letters["g"]] + old[letters["h"]]) / 2]
    found = torch.tensor(begun(method, model, memory, "second", 1), dtype=torch.float64)
    assert torch.allclose(found, torch.stack(expected))
    nearest = replace(method, neighbours=1)
    assert torch.allclose(torch.tensor(begun(nearest, model, memory, "second", 1)[0]).double(), pieces[0])


def test_rows_begin_at_the_mean_of_all_with_noise_of_their_size(catalogue: str) -> None:
    model = toy_model()
    mean, spread = embedding(model).mean(0), embedding(model).std(0)
    plain = GrowVocabulary(tokens=("<a>", "<b>"), warm="mean", noise=0.0)
    noisy = replace(plain, noise=0.01)
    assert torch.allclose(torch.tensor(begun(plain, model, plain.init(model), "first", 0)).double(), mean.expand(2, -1))
    off = torch.tensor(begun(noisy, model, noisy.init(model), "first", 0)).double() - mean
    assert 0.003 < float((off / spread).std()) < 0.03


@pytest.mark.parametrize(
    ("trains", "learns"), [("new", ["new.0", "new.1"]), ("last", ["new.1"]), ("all", ["new.0", "new.1", "weight"])]
)
def test_old_rows_and_what_shall_not_learn_keep_their_bits(trains: Any, learns: list[str], catalogue: str) -> None:
    method = GrowVocabulary(catalogue=catalogue, trains=trains)
    (model, first), (grown, second) = taught(method, "first"), taught(method, "first", "second")
    old, base = embedding(toy_model()), len(toy_model().tokenizer)
    moved = {
        n
        for n, p in grown.parameters().items()
        if n not in model.parameters() or not torch.equal(p, model.parameters()[n])
    }
    names = {f"model.embed_tokens.{name}" for name in learns}
    assert {n for n in moved if "embed_tokens" in n} == names
    assert (trains == "all") == any("embed_tokens" not in n for n in moved)
    assert torch.equal(embedding(grown)[:base], old) == (trains != "all")
    if trains != "all":
        assert sum(w.numel() for w in second.weights.values()) == 4 * old.shape[1]
        assert sum(w.numel() for w in first.weights.values()) == 2 * old.shape[1]


def test_old_logits_are_equal_to_the_bit_before_training_and_new_rows_learn(catalogue: str) -> None:
    model, method = toy_model(), GrowVocabulary(catalogue=catalogue)
    tokens, old = torch.arange(48).view(2, 24), len(model.tokenizer)
    with torch.no_grad():
        before = model.module(input_ids=tokens).logits
        memory = method.begin(method.init(model), Context(model, experience("first")))
        method.params(memory, model)
        assert torch.equal(model.module(input_ids=tokens).logits[..., :old], before)
    trained, _ = taught(method, "first")
    rows = experience("first").train
    losses = [
        sum(-float(m.token_logprobs(b).detach().sum()) for b in Context(m, experience("first")).batches(rows))
        for m in (model, trained)
    ]
    assert losses[1] < losses[0]
    with torch.no_grad():  # by itself a text of old tokens is still told the same logits over old tokens
        assert torch.equal(trained.module(input_ids=tokens).logits[..., :old], before)


def test_a_version_is_rebuilt_saved_and_read_by_transformers(catalogue: str, tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy")
    learner = Learner(str(folder), GrowVocabulary(catalogue=catalogue), RECIPE, dtype="float32", device="cpu")
    stream = Stream((experience("first"), experience("second")), name="items")
    done = run(learner, stream, tmp_path / "run", Settings(suite=()))
    files = RunFolder(tmp_path / "run")
    Path(catalogue).unlink()  # a version stands without it
    state = files.versions.get(files.ledger.head() or "")
    model = learner.restore(learner.open(), state)
    assert done.matrix.learned == 2
    save_grown(model, tmp_path / "saved")
    read = LanguageModel.open(str(tmp_path / "saved"), "float32", "cpu")
    row = model.encode(question("<item_3> and <item_1>", "<item_4>"))
    assert read.encode(question("<item_3> and <item_1>", "<item_4>")) == row
    given = torch.tensor([row.tokens])
    with torch.no_grad():
        assert torch.allclose(read.module(input_ids=given).logits, model.module(input_ids=given).logits, atol=1e-5)


def test_adapters_learn_beside_new_rows(catalogue: str) -> None:
    _, state = taught(chain(LoRA(rank=2), GrowVocabulary(catalogue=catalogue, trains="all")), "first")
    assert {n.rpartition(".")[2] for n in state.weights} == {"A", "B", "0"}


def test_what_cannot_be_grown_by_is_refused(catalogue: str) -> None:
    with pytest.raises(ConfigError, match="tokens or a catalogue"):
        GrowVocabulary()
    with pytest.raises(ConfigError, match="warm is mean"):
        GrowVocabulary(tokens=("<a>",), warm="cold")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is a token already"):
        taught(GrowVocabulary(tokens=("a",)), "first")
    with pytest.raises(DataError, match="white space"):
        taught(GrowVocabulary(tokens=("a b",)), "first")


def test_the_embedded_model_grown_by_a_thousand_items_tells_old_tokens_the_same_to_the_bit() -> None:
    model = LanguageModel.open("embedded", device="cpu")
    tokens, old = torch.tensor([model.tokenizer("The red bicycle stood in the rain.").input_ids]), len(model.tokenizer)
    items = tuple(f"<item_{i}>" for i in range(1000))
    method = GrowVocabulary(tokens=items, warm="mean")
    with torch.inference_mode():
        before = model.module(input_ids=tokens).logits
        memory = method.begin(method.init(model), Context(model, experience("first")))
        method.params(memory, model)
        after = model.module(input_ids=tokens).logits
    assert torch.equal(after[..., :old], before[..., :old])
    assert after.shape[-1] == max(old + 1000, before.shape[-1])
    assert model.encode(Example(text="<item_7> then <item_77>")).tokens.count(old + 77) == 1
    assert model.splits_head
    grow_vocabulary(model, old, [Growth(items, memory["growths"][0]["rows"])])
