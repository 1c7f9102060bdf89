"""TRL's trainers with our methods: supervised fine-tuning, preferences, rewards. What needs `trl` is in this file.

for experience in stream:
    trainer = ContinualSFT(Lesson(learner, model, state, experience), args=SFTConfig(...))
    trainer.train()
    state = trainer.learned()
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trl import DPOConfig, DPOTrainer, GRPOTrainer, SFTConfig, SFTTrainer  # type: ignore[import-not-found, attr-defined, unused-ignore]

from everlearn.data.preferences import verdicts
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Plan
from everlearn.integrations.continual import Continual
from everlearn.integrations.lesson import Lesson
from everlearn.integrations.rows import row_of, table, to_dataset
from everlearn.objectives.next_token import NextToken
from everlearn.types import Reply

Tokens = tuple[int, ...]


class ContinualSFT(Continual, SFTTrainer):  # type: ignore[misc, unused-ignore]
    """`SFTTrainer` on a lesson's demonstrations and documents, with their tokens and targets as in our own loop.

    A document longer than the recipe's `length` is cut into windows; a longer conversation raises.
    """

    def brings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Rows of `input_ids` and `labels`, which TRL takes as they are.

        Raises:
            ConfigError: if TRL would cut rows.
            DataError: if a conversation is longer than the recipe's length.
        """
        rows, args = list(_token_rows(self.lesson)), options.get("args")
        self.index = {tuple(row["input_ids"]): example for row, example in rows}
        _require_whole(max(len(row["input_ids"]) for row, _ in rows), args, SFTConfig)
        if getattr(args, "packing", False) and getattr(args, "packing_strategy", "") == "wrapped":
            raise ConfigError(
                'SFTConfig(packing_strategy="wrapped") cuts rows where a pack is full, and methods no longer know '
                'them; take "bfd", which keeps them whole.'
            )
        return {"train_dataset": table([row for row, _ in rows])} | dict(options)


class ContinualDPO(Continual, DPOTrainer):  # type: ignore[misc, unused-ignore]
    """`DPOTrainer` on a lesson's pairs: of the two choices the last turn is chosen; see `everlearn.data.preferences`.

    The reference is the model as the lesson begins, a copy of which is held. TRL's own default would be the model that
    was once loaded; `precompute_ref_log_probs` gives the same reference without the copy, `ref_model` another one.
    """

    def brings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Pairs, and the reference.

        Raises:
            ConfigError: if TRL would cut answers.
            DataError: if an example is no pair.
        """
        self.index = _by_prompt(self.lesson)
        _require_whole(max(_pair_length(self.lesson, e) for e in self.lesson.examples), options.get("args"), DPOConfig)
        brought = {"train_dataset": to_dataset(self.lesson.examples, "preferences")} | dict(options)
        if not getattr(options.get("args"), "precompute_ref_log_probs", False) and not options.get("ref_model"):
            brought["ref_model"] = copy.deepcopy(self.lesson.model.module).requires_grad_(False)
        return brought


class ContinualGRPO(Continual, GRPOTrainer):  # type: ignore[misc, unused-ignore]
    """`GRPOTrainer` on a lesson's prompts; rewards are the experience's metric unless `reward_funcs` are given.

    A row has the columns `prompt`, `answer` (the last turn), `key`, and those of `integrations.rows`. Replayed rows are
    judged like new ones. TRL's `beta` holds the policy to the model that it loads by name, which is the base model.
    """

    def brings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Prompts, and rewards where none are given.

        Raises:
            ConfigError: if there are none, and the experience's metric does not judge what is generated.
        """
        self.index = _by_prompt(self.lesson)
        rows = [row_of(e, "completions") | {"answer": e.response, "key": e.key} for e in self.lesson.examples]
        prompts = table([{name: row[name] for name in row if name != "completion"} for row in rows])
        return {"reward_funcs": self._metric(options), "train_dataset": prompts} | dict(options)

    def _metric(self, options: Mapping[str, Any]) -> Any:
        metric, examples = self.lesson.experience.metric, {e.key: e for e in self.lesson.examples}
        if "reward_funcs" not in options and metric.question != "generate":
            raise ConfigError(f"{metric} does not judge generated text; give reward_funcs.")

        def experience_metric(completions: Sequence[Any], key: Sequence[str], **columns: Any) -> list[float]:
            texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
            return [metric.score(examples[k], Reply(text)) for k, text in zip(key, texts, strict=True)]

        return experience_metric


def _token_rows(lesson: Lesson) -> Iterator[tuple[dict[str, list[int]], Example]]:
    plan = Plan(batch_size=1, length=lesson.context.plan.length)
    for step in NextToken(packed=False).steps(lesson.model, lesson.examples, plan):
        (batch,) = step.batches
        tokens, targets = batch.tokens[0].tolist(), batch.supervised[0].tolist()
        labels = [token if target else -100 for token, target in zip(tokens, targets, strict=True)]
        yield {"input_ids": tokens, "labels": labels}, batch.examples[0]


def _require_whole(longest: int, args: Any, config: Any) -> None:
    limit = getattr(args, "max_length", config.max_length)
    if limit is not None and longest > limit:
        raise ConfigError(
            f"a row has {longest} tokens, and {config.__name__}(max_length={limit}) would cut it; set max_length=None "
            "or higher."
        )


def _pair_length(lesson: Lesson, example: Example) -> int:
    """Tokens of the prompt with the longer answer."""
    answers = verdicts(example)
    if len(answers) != 2:
        raise DataError(
            f"{example.source or example.key} is one judged answer, and DPO compares two. Leave it out, or learn with "
            "`everlearn.learn` and `Preference(KTO())`."
        )
    return max(sum(map(len, lesson.model.encode_choice(example.prompt, answer))) for answer, _ in answers)


def _by_prompt(lesson: Lesson) -> dict[Tokens, Example]:
    documents = [example for example in lesson.examples if example.text]
    if documents:
        raise DataError(f"{documents[0].source or documents[0].key} is a document, and has no prompt to answer.")
    return {lesson.model.encode_prompt(example.prompt): example for example in lesson.examples}
