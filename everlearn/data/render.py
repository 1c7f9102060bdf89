"""Examples as tokens, by the model's own chat template.

A conversation is rendered piece by piece: up to where the assistant begins to answer, then its answer, and so on. Each
piece is tokenised by itself, so that a prompt has the same tokens when it is learned from and when it is answered.
The pieces are found by rendering the template for the turns so far, which needs no mark-up in the template itself.

Text that looks like a control token ("<|im_end|>" in a user's question, "<|endoftext|>" in a document) is data: it
becomes the tokens of its characters, never the control token, neither in documents nor in the turns of a conversation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from everlearn.errors import DataError, ModelError
from everlearn.examples import Encoded, Example, Message

Schemas = Sequence[Mapping[str, Any]]
"""Functions that may be called, each as its JSON schema, for the chat template to tell of."""

Choice = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a prompt, and of an answer to it."""
MOST = 1 << 14
"""Choices that are remembered of a tokenizer: every version of a model is asked the same questions."""
_CHOICES: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, Choice]] = WeakKeyDictionary()  # each goes with its own

PRIVATE = 0xF0000
"""First of the code points that stand for control look-alikes while the template is rendered (Unicode plane 15)."""


def render(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """An example's tokens and targets.

    A document's targets are all tokens but the first, the end token that is added included. A conversation's are the
    assistant's turns, each with the token that ends it but without the white space that the template puts after it.
    What the template puts after the last turn's end is left out.

    Raises:
        DataError: if a conversation does not end with the assistant, or the template refuses its turns.
        ModelError: if the template does not render turns one after the other, or does not end them by a token.
    """
    if example.text:
        return _render_document(tokenizer, example.text)
    if not example.messages or example.messages[-1].role != "assistant":
        raise DataError(f"{example.source or 'an example'}: a conversation has to end with the assistant's turn.")
    tokens: list[int] = []
    supervised: list[bool] = []
    for piece, target in _pieces(tokenizer, example.messages, example.source):
        tokens += piece
        supervised += [target] * len(piece)
    return Encoded(tuple(tokens), tuple(supervised))


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Schemas = ()
) -> tuple[int, ...]:
    """Tokens up to where the assistant begins to answer: those that `render` gives the same turns.

    Raises:
        DataError: if the template refuses the turns.
        ModelError: as `render`.
    """
    return tuple(token for piece, _ in _pieces(tokenizer, (*messages, None), "a prompt", tools) for token in piece)


def render_between(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Schemas = ()
) -> tuple[int, ...] | None:
    """Tokens from the end of the assistant's last answer, its end token counted, to where it begins to answer again.

    They go behind whatever tokens the answer was drawn in, so that nothing is ever encoded anew. None where the
    template renders what came before otherwise now, or the answer not as it was given but for white space around it
    (without its reasoning, say): no tokens lead on from there, and `render_whole` begins again.

    Args:
        tokenizer: the model's.
        messages: a conversation with an answer in it, and what was said after that.
        tools: that the template was told of from the start.

    Raises:
        DataError: if the template refuses the turns.
    """
    last = max(i for i, m in enumerate(messages) if m.role == "assistant")
    turns, stand_ins = _disarm(tokenizer, messages)
    asked = _apply(tokenizer, turns[:last], True, "a conversation", tools)
    text = _apply(tokenizer, turns, True, "a conversation", tools)
    rest = text.removeprefix(asked)
    end = _controls(tokenizer, len(tokenizer)).search(rest)
    if not text.startswith(asked) or end is None or rest[: end.start()].strip() != turns[last]["content"].strip():
        return None
    return tuple(_encode(tokenizer, rest[end.end() :], stand_ins))


def render_whole(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Schemas = ()
) -> tuple[int, ...]:
    """Tokens up to where the assistant begins to answer, whatever the template makes of its earlier answers.

    Raises:
        DataError: if the template refuses the turns.
    """
    turns, stand_ins = _disarm(tokenizer, messages)
    return tuple(_encode(tokenizer, _apply(tokenizer, turns, True, "a conversation", tools), stand_ins))


def tells(tokenizer: PreTrainedTokenizerBase, tools: Schemas) -> bool:
    """Whether the chat template tells the model of tools, or leaves them out in silence."""
    probe = [{"role": "user", "content": "a"}]
    return _apply(tokenizer, probe, True, "a probe", tools) != _apply(tokenizer, probe, True, "a probe")


def render_choice(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], candidate: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a prompt, and of one candidate answer to it with the token that ends it.

    Raises:
        DataError: if the template refuses the turns.
        ModelError: as `render`.
    """
    known = _CHOICES.setdefault(tokenizer, {})
    shape = (tokenizer.chat_template, tuple(tokenizer.special_tokens_map.items()), len(tokenizer))
    key = (repr(shape), tuple(prompt), candidate)
    if key not in known:
        if len(known) >= MOST:
            known.clear()
        *before, (answer, _) = _pieces(tokenizer, (*prompt, Message("assistant", candidate)), "a candidate")
        known[key] = tuple(token for piece, _ in before for token in piece), tuple(answer)
    return known[key]


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's end token, and the one that its chat template ends turns with."""
    turn = (Message("user", "a"), Message("assistant", "b"))
    *_, (answer, _) = _pieces(tokenizer, turn, "a probe")
    return tuple(dict.fromkeys((answer[-1], tokenizer.eos_token_id)))


def _render_document(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    tokens = list(tokenizer(text, split_special_tokens=True, verbose=False).input_ids)
    if tokens[-1:] != [tokenizer.eos_token_id]:
        tokens.append(tokenizer.eos_token_id)
    return Encoded(tuple(tokens), (False,) + (True,) * (len(tokens) - 1))


def _pieces(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message | None], source: str, tools: Schemas = ()
) -> Iterator[tuple[list[int], bool]]:
    """Tokens of what leads to each assistant turn, not a target, and of each assistant turn, a target.

    A None at the end stands for an answer that is still to come.
    """
    turns, stand_ins = _disarm(tokenizer, [m for m in messages if m is not None])
    done = ""
    for index, message in enumerate(messages):
        if message is not None and message.role != "assistant":
            continue
        prompt = _apply(tokenizer, turns[:index], True, source, tools)
        yield _encode(tokenizer, _rest(prompt, done, tokenizer), stand_ins), False
        if message is not None:
            whole = _apply(tokenizer, turns[: index + 1], False, source, tools)
            rest = _rest(whole, prompt, tokenizer)
            answer = rest[: _end_of_turn(tokenizer, rest, turns[index]["content"])]
            yield _encode(tokenizer, answer, stand_ins), True
            done = prompt + answer


def _disarm(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The turns as a template takes them, with a private character for each control look-alike; and what those mean."""
    controls = _controls(tokenizer, len(tokenizer))
    text = "\n".join(m.content for m in messages)
    free = (chr(c) for c in count(PRIVATE) if chr(c) not in text)
    stand_ins = {control: next(free) for control in dict.fromkeys(controls.findall(text))}
    turns = [{"role": m.role, "content": controls.sub(lambda c: stand_ins[c[0]], m.content)} for m in messages]
    return turns, {private: control for control, private in stand_ins.items()}


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], ask: bool, source: str, tools: Schemas = ()
) -> str:
    try:
        # Templates that tell today's date would make every day's tokens different ones; those that take a date get one.
        text = tokenizer.apply_chat_template(
            turns,
            tools=[dict(tool) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=ask,
            date_string="26 Jul 2024",
        )
    except TemplateError as error:
        roles = [turn["role"] for turn in turns]
        raise DataError(
            f"{source}: the model's chat template refuses turns by {roles}: {error}. Change the roles or their order."
        ) from error
    return str(text)


def _rest(text: str, begun: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if not text.startswith(begun):
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} renders earlier turns otherwise once a later one follows, "
            "so that no text is at once what was learned and what is asked. Give it one example for each assistant "
            "turn, or set tokenizer.chat_template to one that appends."
        )
    return text[len(begun) :]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, answer: str, content: str) -> int:
    """Where in a rendered assistant turn the control token that follows its content ends."""
    marks = list(_controls(tokenizer, len(tokenizer)).finditer(answer))
    if not marks:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} ends the assistant's turn without a special token, so no "
            "answer would ever end. Set tokenizer.chat_template to one that puts the end token there."
        )
    starts = [0, *(mark.end() for mark in marks)]
    texts = [answer[start : mark.start()].strip() for start, mark in zip(starts, marks, strict=False)]
    spoken = [i for i, text in enumerate(texts) if text]
    holding = [i for i in spoken if content.strip() in texts[i]] or spoken or [0]
    return marks[holding[-1]].end()


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, stand_ins: dict[str, str]) -> list[int]:
    parts = re.split(f"([{''.join(stand_ins)}])", text) if stand_ins else [text]
    tokens: list[int] = []
    for part in filter(None, parts):
        plain = stand_ins.get(part)
        found = tokenizer(
            plain or part, add_special_tokens=False, split_special_tokens=plain is not None, verbose=False
        )
        tokens += found.input_ids
    return tokens


@lru_cache(maxsize=8)
def _controls(tokenizer: PreTrainedTokenizerBase, size: int) -> re.Pattern[str]:
    """A pattern for the texts of all special tokens; `size` is the tokenizer's, so that added tokens are seen."""
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    longest_first = sorted(added | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)))
