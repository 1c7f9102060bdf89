"""A method whose parameters join the model after an experience has begun, as adapters for each experience do."""

from dataclasses import dataclass

from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap
from everlearn.types import Memory


@dataclass(frozen=True)
class Late(Method):
    """Adapters that are there from the first experience's beginning on."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        return True

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        if memory:
            wrap(model.module, "all-linear", 2, 4.0)
        return model
