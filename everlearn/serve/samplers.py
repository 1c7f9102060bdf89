"""Sampling on a server of vLLM or SGLang, which runs in an environment of its own.

New weights reach the server as a LoRA adapter in PEFT's format, through a folder that it can read. Each load has a name
of its own, and the one before is then unloaded: both servers keep keys and values of prompts by an adapter's name, and
under an old name would go on with those of the old weights (vllm-project/vllm issue 42125).

A completion's seed is a function of (seed, prompt, number), as in `everlearn.models.sampling`; whether a server then
gives the same tokens in any batch is its own affair (vLLM: batch invariance; SGLang: --enable-deterministic-inference).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar
from uuid import uuid4

from everlearn.data.render import end_tokens
from everlearn.errors import ModelError
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters
from everlearn.models.peft_format import save_peft
from everlearn.models.sampling import Completion, Sampling, seeds
from everlearn.serve.exchange import Server

Tokens = Sequence[int]

SEEDS = 2**31
"""Servers take seeds below it."""


@dataclass
class _Adapter:
    """The adapter that a server has of us, if any.

    Args:
        server: who has it.
        folder: where adapters are written, seen by the server under the same path.
        load: path of the server's call that loads one.
        unload: path of the call that unloads one.
    """

    server: Server
    folder: Path
    load: str
    unload: str
    name: str | None = None
    ends: tuple[int, ...] = ()

    def follow(self, model: LanguageModel) -> None:
        """Load the model's adapters under a new name, and unload the last."""
        if not adapters(model.module) and model.trainable():
            raise ModelError(
                f"{self.server.url} can follow LoRA adapters alone, and {model.name} learns other weights; learn with "
                "LoRA, or sample with LocalSampler."
            )
        self.ends, last, self.name = end_tokens(model.tokenizer), self.name, None
        if adapters(model.module):
            name = f"everlearn-{uuid4().hex[:12]}"
            save_peft(model.module, self.folder / name, model.name)
            self.server.post(self.load, {"lora_name": name, "lora_path": str((self.folder / name).resolve())})
            self.name = name
        if last is not None:
            self.server.post(self.unload, {"lora_name": last})
            rmtree(self.folder / last, ignore_errors=True)


@dataclass
class VLLMSampler:
    """Samples on a server that `vllm serve` started.

    It needs `--enable-lora`, `--max-lora-rank` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 to follow adapters, and
    `--logprobs-mode processed_logprobs` for log-probabilities at a temperature other than 0 and 1. Which it reports is
    seen on a probe; a sampling whose log-probabilities would be others than those promised is refused.

    Args:
        server: its address.
        model: the name that it serves the base model by.
        folder: where adapters are written; the server has to see it under the same path.
        at_once: prompts asked for at the same time.
    """

    server: Server
    model: str
    folder: Path
    at_once: int = 64
    _adapter: _Adapter = field(init=False, repr=False)

    def __post_init__(self) -> None:
        calls = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
        self._adapter = _Adapter(self.server, self.folder, *calls)

    def load(self, model: LanguageModel) -> None:
        """Load the model's adapters onto the server; without adapters, sample from the base model.

        Raises:
            ModelError: if the server refuses, or weights learn that are no adapters.
        """
        self._adapter.follow(model)

    def sample(self, prompts: Sequence[Tokens], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """As `everlearn.models.sampling.sample`; texts are the server's.

        Raises:
            ModelError: if the server cannot be reached, refuses, or does not report what is asked for.
        """
        if prompts:
            self._refuse_other_logprobs(sampling)
        return _each(prompts, self.at_once, lambda prompt: self._ask(prompt, sampling, n))

    def _ask(self, prompt: Tokens, sampling: Sampling, n: int) -> list[Completion]:
        # What is left out would be taken from the model's own generation settings.
        body = {
            "n": n,
            "seed": seeds(sampling.seed, prompt, 1)[0] % SEEDS,  # the server adds each completion's number
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "max_tokens": sampling.limit,
            "stop_token_ids": list(self._adapter.ends),
        }
        return _completions(self.server, _of_vllm, self._post(prompt, body), n)

    def _post(self, prompt: Tokens, body: Mapping[str, Any]) -> Any:
        plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": 1, "return_token_ids": True}
        who = {"model": self._adapter.name or self.model, "prompt": list(prompt)}
        return self.server.post("/v1/completions", {**who, **plain, **body})

    def _refuse_other_logprobs(self, sampling: Sampling) -> None:
        if self._counts_temperature and sampling.top_p not in (None, 1.0):
            raise ModelError(
                f"{self.server.url} reports log-probabilities that count top_p; leave top_p out, or start it with "
                "--logprobs-mode raw_logprobs and sample at temperature 1."
            )
        if not self._counts_temperature and sampling.temperature not in (0.0, 1.0):
            raise ModelError(
                f"{self.server.url} reports log-probabilities at temperature 1, and {sampling.temperature} is asked "
                "for; start it with --logprobs-mode processed_logprobs."
            )

    @cached_property
    def _counts_temperature(self) -> bool:
        """Whether a temperature at which all tokens are alike changes what the server reports of the best one."""
        best = list[float]()
        for temperature in (1.0, 100.0):
            body = {"n": 1, "seed": 0, "temperature": temperature, "top_p": 1.0, "max_tokens": 1}
            best.append(_understood(self.server, _best_of_vllm, self._post([1, 2, 3], body)))
        return abs(best[0] - best[1]) > 0.1


@dataclass
class SGLangSampler:
    """Samples on a server that `sglang.launch_server` started.

    It needs `--enable-lora`, `--max-lora-rank` and `--lora-target-modules` to follow adapters. Its log-probabilities
    are at the sampling's temperature, unless SGLANG_RETURN_ORIGINAL_LOGPROB is set on it: leave it unset.

    Args:
        server: its address.
        folder: where adapters are written; the server has to see it under the same path.
        at_once: prompts asked for at the same time.
    """

    server: Server
    folder: Path
    at_once: int = 64
    _adapter: _Adapter = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._adapter = _Adapter(self.server, self.folder, "/load_lora_adapter", "/unload_lora_adapter")

    def load(self, model: LanguageModel) -> None:
        """As `VLLMSampler.load`."""
        self._adapter.follow(model)

    def sample(self, prompts: Sequence[Tokens], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """As `VLLMSampler.sample`."""
        return _each(prompts, self.at_once, lambda prompt: self._ask(prompt, sampling, n))

    def _ask(self, prompt: Tokens, sampling: Sampling, n: int) -> list[Completion]:
        # Each completion is asked for by itself, since n of them would share one seed; the prompt's keys and values
        # are shared all the same.
        settings = {
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_new_tokens": sampling.limit,
            "stop_token_ids": list(self._adapter.ends),
        }
        own = [{"sampling_seed": seed % SEEDS} for seed in seeds(sampling.seed, prompt, n)]
        body = {
            "input_ids": [list(prompt)] * n,
            "sampling_params": [settings | seed for seed in own],
            "return_logprob": True,
            **({"lora_path": [self._adapter.name] * n} if self._adapter.name else {}),
        }
        return _completions(self.server, _of_sglang, self.server.post("/generate", body), n)


_T = TypeVar("_T")

_Parts = tuple[list[int], list[float], str, str]
"""Tokens, log-probabilities, text, and why it ended."""


def _of_vllm(answer: Any) -> list[_Parts]:
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    return [(c["token_ids"], c["logprobs"]["token_logprobs"], str(c["text"]), c["finish_reason"]) for c in choices]


def _best_of_vllm(answer: Any) -> float:
    return float(max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()))


def _of_sglang(answer: Any) -> list[_Parts]:
    pairs = [one["meta_info"]["output_token_logprobs"] for one in answer]
    reasons = [one["meta_info"]["finish_reason"]["type"] for one in answer]
    return [
        ([p[1] for p in some], [p[0] for p in some], str(one["text"]), reason)
        for one, some, reason in zip(answer, pairs, reasons, strict=True)
    ]


def _completions(server: Server, read: Callable[[Any], list[_Parts]], answer: Any, n: int) -> list[Completion]:
    found = _understood(server, read, answer)
    broken = [reason for _, _, _, reason in found if reason not in ("stop", "length")]
    if broken:
        raise ModelError(f"{server.url} broke a completion off ({broken[0]}); look into its log.")
    if len(found) != n or any(not tokens or len(tokens) != len(logprobs) for tokens, logprobs, _, _ in found):
        raise ModelError(f"{server.url} did not give {n} completions with a log-probability for each token.")
    return [Completion(tuple(t), tuple(map(float, p)), text, reason == "stop") for t, p, text, reason in found]


def _understood(server: Server, read: Callable[[Any], _T], answer: Any) -> _T:
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"{server.url} answers in another form than is known ({type(error).__name__}: {error}): {answer!r:.200}; "
            "is it the kind of server it is taken for, and recent enough to report token ids?"
        ) from error


def _each(prompts: Sequence[Tokens], at_once: int, ask: Callable[[Tokens], list[Completion]]) -> list[list[Completion]]:
    """Ask for all prompts, some at a time; at the first failure the rest is not asked for."""
    pool = ThreadPoolExecutor(at_once)
    try:
        return list(pool.map(ask, prompts))
    finally:
        pool.shutdown(cancel_futures=True)
