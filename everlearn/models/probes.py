"""What a model has to show on a few tokens before a short cut is trusted."""

from collections.abc import Callable

from torch import Tensor, nn

from everlearn.examples import Batch
from everlearn.models.documents import nearly_equal, two_documents

Pass = Callable[[Batch], Tensor]


def splits_head(head: nn.Linear, hidden: Pass, logits: Pass, vocabulary: int) -> bool:
    """Whether a head on the last hidden states gives exactly the model's logits.

    Args:
        head: the output embedding.
        hidden: (B, T, D) of a batch, after the final norm.
        logits: (B, T, V) of a batch.
        vocabulary: how many tokens there are.
    """
    probe = two_documents(packed=False, vocabulary=vocabulary)
    return nearly_equal(nn.functional.linear(hidden(probe), head.weight, head.bias), logits(probe))


def packs(hidden: Pass, vocabulary: int) -> bool:
    """Whether documents packed in one row get the hidden states that they get alone.

    Args:
        hidden: (B, T, D) of a batch.
        vocabulary: how many tokens there are.
    """
    packed, alone = (two_documents(kind, vocabulary) for kind in (True, False))
    together, apart = hidden(packed)[0], hidden(alone)
    return nearly_equal(together[:4], apart[0, :4]) and nearly_equal(together[4:], apart[1, :6])
