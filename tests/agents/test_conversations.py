from everlearn.agents.conversations import Conversation
from everlearn.examples import Message
from everlearn.models.sampling import Completion
from everlearn.testing.toys import toy_model

MODEL = toy_model()
ASKED = (Message("user", "a?"),)


def said(text: str, end: bool = True) -> Completion:
    tokens = (*MODEL.tokenizer(text, add_special_tokens=False).input_ids, *([1] if end else []))
    return Completion(tokens, (-0.5,) * len(tokens), text, end)


def words(tokens: tuple[int, ...]) -> str:
    return "".join(MODEL.tokenizer.convert_ids_to_tokens(list(tokens)))


def test_a_conversation_grows_by_what_is_drawn_and_what_is_said() -> None:
    talk = Conversation(MODEL, ASKED)
    assert words(talk.prompt) == "<|user|>a?<|end|><|assistant|>"
    talk.answer(said("b"))
    talk.reply((Message("user", "c?"),))
    talk.answer(said("de", end=False))
    assert words(talk.prompt) == "<|user|>a?<|end|><|assistant|>b<|end|><|user|>c?<|end|><|assistant|>de"
    (stretch,) = talk.stretches
    assert "".join("x" if d else "." for d in stretch.drawn) == "xx.....xx"
    assert stretch.logprobs == [-0.5, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0, -0.5, -0.5]
    assert (stretch.text, stretch.turn, talk.turn) == ("de", 1, 2)
    assert [m.content for m in talk.messages] == ["a?", "b", "c?", "de"]


def test_an_answer_that_lacks_its_end_gets_one_that_was_not_drawn() -> None:
    talk = Conversation(MODEL, ASKED)
    talk.answer(said("b", end=False))
    talk.reply((Message("user", "c?"),))
    assert words(talk.prompt) == "<|user|>a?<|end|><|assistant|>b<|end|><|user|>c?<|end|><|assistant|>"
    assert talk.last.drawn == [True] + [False] * 6


def test_answers_apart_stand_behind_all_that_came_before_them() -> None:
    talk = Conversation(MODEL, ASKED, apart=True)
    talk.answer(said("b"))
    talk.reply((Message("user", "c?"),))
    talk.answer(said("d"))
    assert [words(tuple(s.tokens)) for s in talk.stretches] == ["b<|end|>", "d<|end|>"]
    assert words(talk.last.prompt) == "<|user|>a?<|end|><|assistant|>b<|end|><|user|>c?<|end|><|assistant|>"
    assert [s.turn for s in talk.stretches] == [1, 2]
