"""A tokenizer of whole words, for the recipes' small networks."""

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MARKS = ("<|pad|>", "<|end|>", "<|unknown|>")
"""The first tokens of each."""


def word_tokenizer(words: Sequence[str], marks: Sequence[str], template: str) -> PreTrainedTokenizerFast:
    """One token for each word between spaces.

    Args:
        words: all tokens in order, the marks first.
        marks: those that are never text; MARKS among them.
        template: of conversations.
    """
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=MARKS[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(marks))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=MARKS[1],
        pad_token=MARKS[0],
        unk_token=MARKS[2],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )
