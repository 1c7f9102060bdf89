"""A server on this machine that speaks as vLLM and SGLang do, with a toy behind it and every request written down."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from time import sleep
from typing import Any

import torch

from everlearn.models.decoding import Ask, Row
from everlearn.models.draws import noise, nucleus, race
from everlearn.models.language_model import LanguageModel
from everlearn.models.peft_format import load_peft
from tests.models.lively import lively_model

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class StandIn:
    """What the server does.

    Args:
        processed: whether log-probabilities count temperature and top_p.
        troubles: answers given first, before any other; a number is seconds to wait before answering.
        chat: from what is asked as a conversation to what is answered.
    """

    processed: bool = True
    troubles: list[Answer | float] = field(default_factory=list)
    chat: Callable[[dict[str, Any]], Any] = lambda body: {}
    asked: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)
    models: dict[str, LanguageModel] = field(default_factory=lambda: {"base": lively_model()})
    url: str = ""
    lock: Any = field(default_factory=Lock)

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> Answer:
        with self.lock:  # a toy is not for several threads
            self.asked.append((path, body, key))
            if self.troubles:
                trouble = self.troubles.pop(0)
                if not isinstance(trouble, float):
                    return trouble
                sleep(trouble)
            if path == "/v1/chat/completions":
                return 200, self.chat(body), {}
            return self._adapters(path, body) or self._completions(path, body)

    def _adapters(self, path: str, body: dict[str, Any]) -> Answer | None:
        sort = path.rpartition("/")[2]
        if sort == "load_lora_adapter":
            if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
                return 404, _refusal(f"No adapter found for {body['lora_path']}"), {}
            if body["lora_name"] in self.models:
                return 400, _refusal(f"The lora adapter '{body['lora_name']}' has already been loaded."), {}
            self.models[body["lora_name"]] = lively_model()
            load_peft(self.models[body["lora_name"]].module, Path(body["lora_path"]))
            return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully.", {}
        if sort == "unload_lora_adapter":
            del self.models[body["lora_name"]]
            return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully.", {}
        return None

    def _completions(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/completions":
            if body["model"] not in self.models:
                return 404, _refusal(f"The model `{body['model']}` does not exist."), {}
            drawn = [
                self._draw(body["model"], body["prompt"], body | {"seed": body["seed"] + i}) for i in range(body["n"])
            ]
            choices = [_choice(i, *one) for i, one in enumerate(drawn)]
            return 200, {"object": "text_completion", "choices": choices[::-1]}, {}
        names = body.get("lora_path") or ["base"] * len(body["input_ids"])
        found = []
        for name, prompt, params in zip(names, body["input_ids"], body["sampling_params"], strict=True):
            settings = params | {"seed": params["sampling_seed"], "max_tokens": params["max_new_tokens"]}
            tokens, logprobs, text, reason, _ = self._draw(name, prompt, settings)
            pairs = [[p, t, None] for p, t in zip(logprobs, tokens, strict=True)]
            about = {"finish_reason": {"type": reason}, "output_token_logprobs": pairs}
            found.append({"text": text, "output_ids": tokens, "meta_info": about})
        return 200, found, {}

    def _draw(self, name: str, prompt: list[int], body: dict[str, Any]) -> tuple[list[int], list[float], str, str, Any]:
        model, row, logprobs, best = self.models[name], Row(Ask(prompt), body["seed"]), list[float](), list[float]()
        ends = {*body.get("stop_token_ids", ()), model.tokenizer.eos_token_id}
        while len(row.tokens) < body["max_tokens"] and not ends & set(row.tokens[-1:]):
            with torch.inference_mode():
                logits = model.module(input_ids=torch.tensor([prompt + row.tokens])).logits[0, -1]
            heat = body["temperature"] or 1.0
            kept = nucleus((logits / heat).softmax(-1)[None], body["top_p"])
            token = int(race(kept, noise([row], len(logits)))) if body["temperature"] else int(logits.argmax())
            told = (kept[0] / kept.sum()).log() if self.processed else logits.log_softmax(-1)
            row.tokens.append(token)
            logprobs.append(float(told[token]))
            best.append(float(told.max()))
        text = str(model.tokenizer.decode(row.tokens, skip_special_tokens=True))
        return row.tokens, logprobs, text, "stop" if ends & set(row.tokens[-1:]) else "length", best


def _choice(index: int, tokens: list[int], logprobs: list[float], text: str, reason: str, best: list[float]) -> Any:
    top = [{"the best": b, "the drawn": p} for b, p in zip(best, logprobs, strict=True)]
    about = {"token_logprobs": logprobs, "top_logprobs": top, "tokens": [str(t) for t in tokens]}
    return {"index": index, "text": text, "token_ids": tokens, "logprobs": about, "finish_reason": reason}


def _refusal(words: str) -> dict[str, Any]:
    return {"error": {"message": words, "type": "BadRequestError", "code": 400}}


@contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in behind an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer, headers = stand_in.answer(self.path, body, self.headers.get("Authorization"))
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: what was asked is kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
