from time import monotonic

import pytest

from everlearn.errors import ModelError
from everlearn.serve.exchange import Server
from tests.serve.stand_in import Answer, StandIn, serving

FINE: Answer = (200, {"fine": 1}, {})


def busy(code: int = 503, **headers: str) -> Answer:
    return code, {"error": {"message": "queue is full"}}, {k.replace("_", "-"): v for k, v in headers.items()}


def test_a_busy_server_is_asked_again_with_growing_pauses() -> None:
    with serving(StandIn(troubles=[busy(), busy(429), busy(), FINE])) as server:
        begun = monotonic()
        assert Server(server.url, pause=0.02).post("/x", {"a": [1]}) == {"fine": 1}
        assert monotonic() - begun >= 0.02 + 0.04 + 0.08
        assert server.asked == [("/x", {"a": [1]}, None)] * 4


def test_a_server_that_names_a_time_is_asked_then() -> None:
    with serving(StandIn(troubles=[busy(429, Retry_After="1"), FINE])) as server:
        begun = monotonic()
        Server(server.url, pause=0.01).post("/x", {})
        assert monotonic() - begun >= 1


def test_a_server_that_stays_busy_is_given_up_in_its_own_words() -> None:
    with (
        serving(StandIn(troubles=[busy()] * 50)) as server,
        pytest.raises(ModelError, match=r"still busy \(503\) after 0.1 seconds: queue is full"),
    ):
        Server(server.url, patience=0.1, pause=0.03).post("/x", {})
    assert 1 < len(server.asked) < 5


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"message": "too long"}, "too long"),
        ({"success": False, "error_message": "rank 64 exceeds 16"}, "rank 64 exceeds 16"),
        ({"detail": [{"msg": "field required"}]}, "field required"),
        ("<html>proxy</html>", "proxy"),
        ("", "no reason given"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_and_not_tried_again(body: object, says: str) -> None:
    with (
        serving(StandIn(troubles=[(400, body, {}), FINE])) as server,
        pytest.raises(ModelError, match=rf"/x refuses \(400\): .*{says}"),
    ):
        Server(server.url).post("/x", {})
    assert len(server.asked) == 1


def test_silence_ends_by_a_timeout_and_an_empty_address_says_so() -> None:
    with (
        serving(StandIn(troubles=[0.5])) as server,
        pytest.raises(ModelError, match=r"did not answer within 0.1 seconds"),
    ):
        Server(server.url, timeout=0.1).post("/unload_lora_adapter", {"lora_name": "base"})
    with pytest.raises(ModelError, match="cannot be reached"):
        Server(server.url).post("/x", {})
    with pytest.raises(ModelError, match="cannot be reached"):
        Server("nowhere").post("/x", {})


def test_a_key_is_sent_and_text_that_is_no_json_is_given_as_it_is() -> None:
    with serving(StandIn(troubles=[(200, "Success: added", {})])) as server:
        assert Server(server.url + "/", key="secret").post("/x", {}) == "Success: added"
    assert server.asked == [("/x", {}, "Bearer secret")]
