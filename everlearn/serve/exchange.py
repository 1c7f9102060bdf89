"""JSON to a server and back, with patience for one that is busy and plain words for one that refuses."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from everlearn.errors import ModelError

BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""What a server answers that may be asked again."""

SHOWN = 500
"""Most characters of a server's words in an error."""


@dataclass(frozen=True)
class Server:
    """Where to ask, and how long to wait.

    Args:
        url: such as "http://127.0.0.1:8000".
        key: sent as a bearer token, where the server asks for one.
        timeout: most seconds without a byte of an answer.
        patience: seconds until a busy server is given up.
        pause: seconds before a busy server is asked again at first; each time twice as long, up to half a minute. A
            server that names a time is asked then.
    """

    url: str
    key: str | None = None
    timeout: float = 600.0
    patience: float = 300.0
    pause: float = 0.5

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a JSON body: plain data where it is JSON, else its text.

        Raises:
            ModelError: if the server cannot be reached, does not answer in time, stays busy, or refuses.
        """
        place, ends, pause = self.url.rstrip("/") + path, time.monotonic() + self.patience, self.pause
        while True:
            try:
                return _plain(self._send(place, json.dumps(body).encode()))
            except HTTPError as error:
                with error:
                    words = error.read().decode("utf-8", "replace")
                wait = _seconds(error.headers.get("Retry-After")) or pause
                if error.code not in BUSY:
                    raise ModelError(f"{place} refuses ({error.code}): {_message(words)}") from error
                if time.monotonic() + wait > ends:
                    raise ModelError(
                        f"{place} is still busy ({error.code}) after {self.patience:g} seconds: {_message(words)}. "
                        "Send it less at a time, or give it more patience."
                    ) from error
            time.sleep(wait)
            pause = min(2 * pause, 30.0)

    def _send(self, place: str, body: bytes) -> str:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            with urlopen(Request(place, body, headers), timeout=self.timeout) as answer:
                return str(answer.read().decode("utf-8", "replace"))
        except HTTPError:
            raise
        except TimeoutError as error:
            raise ModelError(
                f"{place} did not answer within {self.timeout:g} seconds; give it a longer timeout."
            ) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise ModelError(
                f"{place} cannot be reached ({reason}); is the server up, and the address right?"
            ) from error


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _message(text: str) -> str:
    """What a refusal says, out of the shapes that vLLM, SGLang and FastAPI put it in."""
    found = _plain(text)
    for key in ("error", "message", "error_message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return str(found)[:SHOWN] or "no reason given"


def _seconds(text: str | None) -> float:
    """Of a Retry-After header; 0 where there is none, or where it is a date."""
    return float(text) if text is not None and text.strip().isdigit() else 0.0
