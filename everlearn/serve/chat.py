"""A chat model behind any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, or a provider."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Message
from everlearn.serve.exchange import Server


@dataclass(frozen=True)
class OpenAIChat:
    """Answers a conversation by asking a server: a judge, a partner, a writer of documents.

    An answer that was cut off, or has no text, is an error and never half an answer.

    Args:
        url: the server's, without /v1: "http://127.0.0.1:8000".
        model: the name that it serves the model by.
        temperature: of drawing.
        limit: most tokens of an answer.
        key: name of the environment variable that holds the server's key; the key itself is written nowhere. None
            sends none.
        timeout: most seconds without a byte of an answer.
        patience: seconds until a busy server is given up.
    """

    url: str
    model: str
    temperature: float = 1.0
    limit: int = 4096
    key: str | None = None
    timeout: float = 600.0
    patience: float = 300.0

    def __call__(self, messages: Sequence[Message]) -> str:
        """The answer to a conversation.

        Raises:
            ConfigError: if the key's variable is not set.
            ModelError: if the server cannot be reached or refuses, or the answer is cut off or empty.
        """
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "temperature": self.temperature,
            "max_tokens": self.limit,
        }
        server = Server(self.url, self._key(), self.timeout, self.patience)
        text, reason = self._read(server.post("/v1/chat/completions", body))
        if reason == "length":
            raise ModelError(f"{self.url} cut an answer off at {self.limit} tokens; raise the limit, or ask for less.")
        if not isinstance(text, str) or not text.strip():
            raise ModelError(f"{self.url} gave an answer without text (it ended by {reason!r}); ask otherwise.")
        return text

    def _key(self) -> str | None:
        if self.key is not None and not os.environ.get(self.key):
            raise ConfigError(
                f"OpenAIChat: the environment variable {self.key} is not set; put the key of {self.url} in."
            )
        return os.environ[self.key] if self.key is not None else None

    def _read(self, answer: Any) -> tuple[Any, Any]:
        try:
            choice = answer["choices"][0]
            return choice["message"].get("content"), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.url} answers in another form than OpenAI's ({type(error).__name__}: {error}): {answer!r:.200}; "
                "does it serve /v1/chat/completions?"
            ) from error
