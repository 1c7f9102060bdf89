"""Candidates are read once behind their prompt, and score what each of them scores alone."""

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.examples import Batch, Encoded
from everlearn.models.candidates import branches, totals
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import CHUNK, Said, said_logprobs
from everlearn.models.routes import Request, requests
from everlearn.testing.toys import toy_model

PROMPT = (5, 9, 7)
CANDIDATES = ((11, 2), (12, 13, 14, 2), (12, 13, 2), (12, 2), (11, 15, 2), (16,), (11, 2))


def alone(model: LanguageModel, prompt: tuple[int, ...], candidate: tuple[int, ...]) -> float:
    row = Row((Encoded(prompt + candidate, (False,) * len(prompt) + (True,) * len(candidate)),))
    with torch.no_grad():
        return float(model.token_logprobs(collate([row])).sum())


def test_only_what_foretells_a_token_is_read_and_beginnings_are_read_with_what_they_begin() -> None:
    (found,) = branches(PROMPT, CANDIDATES, "colours", packs=True)
    assert [d.tokens for d in found.row.documents] == [PROMPT, (11, 15), (12, 13, 14)]
    assert found.row.task == "colours"
    assert found.columns == ((2, 3), (2, 5, 6, 7), (2, 5, 6), (2, 5), (2, 3, 4), (2,), (2, 3))


def test_a_model_that_does_not_pack_reads_a_row_for_each() -> None:
    found = branches(PROMPT, CANDIDATES, "", packs=False)
    assert [one.first for one in found] == list(range(len(CANDIDATES)))
    assert [one.row.documents[0].tokens for one in found][1:3] == [(*PROMPT, 12, 13, 14), (*PROMPT, 12, 13)]
    assert found[1].columns == ((2, 3, 4, 5),)


@pytest.mark.parametrize("packs", [True, False])
def test_scores_are_those_of_each_candidate_alone(packs: bool) -> None:
    model = toy_model(2)
    asked = [(PROMPT, CANDIDATES), ((8,), CANDIDATES[:3]), ((4, 4), ((17,),))]
    rows = [row for prompt, candidates in asked for row in branches(prompt, candidates, "", packs)]
    found = [score for scores in totals(model, collate([r.row for r in rows], packs), rows) for score in scores]
    expected = [alone(model, prompt, candidate) for prompt, candidates in asked for candidate in candidates]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("packs", [True, False])
def test_the_route_is_asked_for_by_the_prompt_alone(packs: bool) -> None:
    model, seen = toy_model(), list[Request]()
    rows = branches(PROMPT, CANDIDATES[:5], "", packs)
    said = model.said

    def watched(batch: Batch, before: torch.Tensor | None = None) -> Said:
        seen.extend(requests(batch))
        return said(batch, before)

    model.said = watched  # type: ignore[method-assign]
    list(totals(model, collate([row.row for row in rows], packs), rows))
    assert {tuple(request.prompt) for request in seen} == {PROMPT}


def test_any_number_of_tokens_are_scored_at_a_place() -> None:
    states = torch.randn(CHUNK + 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at, targets = torch.tensor([CHUNK + 2, 0, 0, CHUNK, 0]), torch.tensor([3, 10, 1, 1, 10])
    exact = (states @ weight.T).log_softmax(-1)[at, targets]
    torch.testing.assert_close(said_logprobs(Said(states, weight), at, targets), exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(said_logprobs(Said(states @ weight.T), at, targets), exact, rtol=0, atol=1e-12)
