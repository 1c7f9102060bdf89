"""The definitions: a matrix by hand, and how the published variants are related."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from everlearn import definitions
from everlearn.definitions import DEFINITIONS, Cells

BY_HAND = Cells(
    learned=np.array([[0.1, 0.2, 0.3], [0.8, 0.95, 0.2], [0.85, 0.9, 0.4], [0.9, 0.5, 1.0]]),
    single=np.array([0.9, 0.8, 0.9]),
    joint=np.array([0.95, 0.95, 0.9]),
    counts=np.array([1.0, 2.0, 1.0]),
    general=np.array([[0.5, 0.7], [0.0, 0.0], [0.0, 0.0], [0.4, 0.75]]),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", (0.9 + 0.5 + 1.0) / 3),
        ("accuracy_micro", (0.9 + 2 * 0.5 + 1.0) / 4),
        ("average_incremental_accuracy", (0.8 + (0.85 + 0.9) / 2 + 0.8) / 3),
        ("learning_accuracy", (0.8 + 0.9 + 1.0) / 3),
        ("backward_transfer_lopez_paz", (0.1 - 0.4) / 2),
        ("backward_transfer_sapt", (0.1 - 0.4 + 0.0) / 3),
        ("backward_transfer_trace", (0.1 - 0.4 + 0.0) / 3),
        ("backward_transfer_clipped", -0.4 / 3),
        ("forward_transfer_lopez_paz", ((0.95 - 0.2) + (0.4 - 0.3)) / 2),
        ("forward_transfer_sapt", 2.7 / 3 - 2.6 / 3),
        ("forgetting_chaudhry", ((0.85 - 0.9) + (0.9 - 0.5)) / 2),
        ("forgetting_signed_cgl", (0.1 - 0.4) / 2),
        ("intransigence_joint_chaudhry", (0.15 + 0.05 - 0.1) / 3),
        ("intransigence_single", (0.1 - 0.1 - 0.1) / 3),
        ("general_ability_delta_trace", (-0.1 + 0.05) / 2),
    ],
)
def test_each_definition_by_hand(name, value):
    assert float(getattr(definitions, name)(BY_HAND)) == pytest.approx(value, abs=1e-12)


def test_every_definition_has_a_number_by_hand():
    marks = test_each_definition_by_hand.pytestmark
    assert {name for name, _ in marks[0].args[1]} == {d.__name__ for d in DEFINITIONS}


SCORES = st.floats(0, 1)


@st.composite
def cells(draw):
    size, abilities = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    return Cells(
        learned=draw(arrays(float, (size + 1, size), elements=SCORES)),
        single=draw(arrays(float, size, elements=SCORES)),
        joint=draw(arrays(float, size, elements=SCORES)),
        counts=draw(arrays(float, size, elements=st.integers(1, 1000).map(float))),
        general=draw(arrays(float, (size + 1, abilities), elements=SCORES)),
    )


@given(cells())
def test_published_variants_of_backward_transfer_are_related(given_cells):
    size = given_cells.learned.shape[-1]
    standard = definitions.backward_transfer_lopez_paz(given_cells)
    sapt = definitions.backward_transfer_sapt(given_cells)
    assert sapt == pytest.approx(standard * (size - 1) / size, abs=1e-12)
    assert definitions.backward_transfer_trace(given_cells) == sapt
    assert definitions.backward_transfer_clipped(given_cells) <= min(sapt, 0) + 1e-12
    assert definitions.forgetting_signed_cgl(given_cells) == standard
    assert definitions.forgetting_chaudhry(given_cells) >= -standard - 1e-12


@given(cells())
def test_accuracy_is_learning_accuracy_plus_sapts_backward_transfer(given_cells):
    parts = definitions.learning_accuracy(given_cells) + definitions.backward_transfer_sapt(given_cells)
    assert definitions.accuracy(given_cells) == pytest.approx(parts, abs=1e-12)
    references = definitions.forward_transfer_sapt(given_cells) + definitions.intransigence_single(given_cells)
    assert references == pytest.approx(0, abs=1e-12)


@given(cells())
def test_micro_is_macro_where_every_experience_has_as_many_items(given_cells):
    even = Cells(
        learned=given_cells.learned,
        single=given_cells.single,
        joint=given_cells.joint,
        counts=np.full_like(given_cells.counts, 7),
        general=given_cells.general,
    )
    assert definitions.accuracy_micro(even) == pytest.approx(float(definitions.accuracy(even)), abs=1e-12)


@given(st.lists(cells(), min_size=1, max_size=1), st.integers(1, 4))
def test_a_definition_works_on_leading_dimensions(one, copies):
    first = one[0]
    many = Cells(*(np.stack([getattr(first, f)] * copies) for f in ("learned", "single", "joint", "counts", "general")))
    for definition in DEFINITIONS:
        np.testing.assert_allclose(definition(many), np.full(copies, definition(first)), atol=1e-12)
