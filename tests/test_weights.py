import math
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import MethodError, ModelError
from everlearn.files import read_json, sha256_file, write_json
from everlearn.weights import (
    STORABLE,
    add,
    equal,
    from_bytes,
    interpolate,
    load_tensors,
    norm,
    pack,
    save_tensors,
    subtract,
    tensor_hash,
    tensors_hash,
    to_bytes,
    unpack,
)

shapes = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(shapes)
    size = math.prod(shape)
    bits = draw(st.binary(min_size=size * 8, max_size=size * 8))
    dtype = draw(st.sampled_from(STORABLE))
    values = torch.frombuffer(bytearray(bits), dtype=torch.int64) if size else torch.empty(0, dtype=torch.int64)
    width = torch.empty(0, dtype=dtype).element_size()
    values = (values % 2).bool() if dtype == torch.bool else values.view(torch.uint8)[: size * width].view(dtype)
    tensor = values.reshape(shape)
    return tensor.transpose(0, 1) if len(shape) > 1 and draw(st.booleans()) else tensor


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors()
keys = st.text() | st.integers()
memories = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return equal({"": a}, {"": b})
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return a == b or (a != a and b != b)


@settings(max_examples=100)
@given(memories)
def test_a_memory_comes_back_from_its_files_in_the_same_bits_and_order(tmp_path_factory, memory):
    folder = tmp_path_factory.mktemp("memory")
    skeleton, kept = pack(memory)
    write_json(folder / "skeleton.json", skeleton)
    save_tensors(folder / "kept.safetensors", kept)
    assert same(unpack(read_json(folder / "skeleton.json"), load_tensors(folder / "kept.safetensors")), memory)


def test_a_tensor_is_named_by_its_place():
    assert pack({"fisher": [torch.zeros(1)], 3: ()}) == (
        {"dict": [["fisher", [{"tensor": "memory['fisher'][0]"}]], [3, {"tuple": []}]]},
        {"memory['fisher'][0]": torch.zeros(1)},
    )


def test_keys_that_look_alike_keep_their_tensors_apart():
    memory = {"a": {"b": torch.tensor(1)}, "a']['b": torch.tensor(2), 1: torch.tensor(3), "1": torch.tensor(4)}
    assert same(unpack(*pack(memory)), memory)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"a": [object()]}, r"memory\['a'\]\[0\] is a builtins\.object"),
        ([np.float64(1)], r"memory\[0\] is a numpy\.float64"),
        (b"bytes", "memory is a builtins.bytes"),
        (namedtuple("Pair", "a b")(1, 2), "Pair"),
        ({(1, 2): 3}, r"memory has the key \(1, 2\) of type a builtins\.tuple"),
        ({True: 3}, "key True of type a builtins.bool"),
        ((torch.eye(2).to_sparse(),), r"memory\[0\] is a tensor of torch\.float32, torch\.sparse_coo"),
        ([torch.empty(1, device="meta")], "on meta"),
        (torch.zeros(1, dtype=torch.complex128), r"torch\.complex128"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place_and_type(memory, message):
    with pytest.raises(MethodError, match=message):
        pack(memory)


def test_a_skeleton_without_its_tensors_is_refused():
    skeleton, _ = pack([torch.zeros(1)])
    with pytest.raises(MethodError, match="refers to nothing among 0 tensors"):
        unpack(skeleton, {})


def test_packed_parameters_carry_no_gradient():
    _, kept = pack([torch.nn.Parameter(torch.ones(2))])
    assert not kept["memory[0]"].requires_grad


def test_tied_and_transposed_tensors_are_saved_apart(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    given_ = {
        "whole": whole,
        "tied": whole,
        "part": whole[1:],
        "turned": whole.t(),
        "conjugate": torch.tensor([1j]).conj(),
    }
    save_tensors(tmp_path / "a.safetensors", given_)
    loaded = load_tensors(tmp_path / "a.safetensors")
    assert equal(loaded, given_)
    loaded["tied"].zero_()
    assert loaded["whole"].sum() == 15
    assert equal(load_tensors(tmp_path / "a.safetensors"), given_), "the file is not changed through the loaded tensors"
    assert equal(from_bytes((tmp_path / "a.safetensors").read_bytes()), given_)


def test_the_same_tensors_give_the_same_file_in_any_order(tmp_path):
    some = {"b": torch.ones(2), "a": torch.zeros(3, dtype=torch.bfloat16), "c": torch.ones(1)}
    turned = dict(reversed(some.items()))
    for name, given_ in (("x", some), ("y", turned)):
        save_tensors(tmp_path / name, given_)
    assert sha256_file(tmp_path / "x") == sha256_file(tmp_path / "y")
    assert to_bytes(some) == (tmp_path / "x").read_bytes()
    assert tensors_hash(some) == tensors_hash(turned)


def test_loaded_tensors_lie_like_computed_ones(tmp_path):
    tensors = {name: torch.arange(float(size)) for name, size in (("a", 3), ("b", 100), ("c", 0))}
    save_tensors(tmp_path / "x", tensors)
    for loaded in (load_tensors(tmp_path / "x"), from_bytes(to_bytes(tensors))):
        assert equal(loaded, tensors)
        assert all(t.data_ptr() % 64 == 0 for t in loaded.values())  # a product of others may round otherwise


def test_a_broken_file_of_tensors_is_a_model_error(tmp_path):
    save_tensors(tmp_path / "a", {"x": torch.ones(100)})
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[:-1])
    for path in (tmp_path / "a", tmp_path / "none"):
        with pytest.raises(ModelError, match=f"{path}: no readable safetensors file"):
            load_tensors(path)
    with pytest.raises(ModelError, match="no safetensors file"):
        from_bytes(whole[:-1])
    with pytest.raises(ModelError, match=r"x is a tensor of torch\.complex128"):
        save_tensors(tmp_path / "b", {"x": torch.zeros(1, dtype=torch.complex128)})


def test_a_hash_is_of_dtype_shape_and_bits():
    zeros = torch.zeros(2, 2)
    others = [zeros.reshape(4), zeros.int(), -zeros, torch.ones(2, 2)]
    assert len({tensor_hash(t) for t in [zeros, *others]}) == 5
    assert tensor_hash(torch.ones(2, 3).t()) == tensor_hash(torch.ones(3, 2))
    known = {tensors_hash(t) for t in ({}, {"a": zeros}, {"b": zeros}, {"a": zeros, "b": zeros}, {"a": -zeros})}
    assert len(known) == 5


def test_equal_is_bit_for_bit():
    nan = {"a": torch.tensor([float("nan"), 0.0])}
    assert equal(nan, {"a": nan["a"].clone()})
    assert not equal({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)})
    assert not equal({"a": torch.tensor(0.0)}, {"a": torch.tensor(0.0, dtype=torch.float64)})
    assert not equal({"a": torch.zeros(1)}, {"a": torch.zeros(1, 1)})
    assert not equal({"a": torch.zeros(1)}, {"b": torch.zeros(1)})


def test_arithmetic_by_hand():
    before, after = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([4.0, 6.0], requires_grad=True)}
    delta = subtract(after, before)
    assert equal(delta, {"a": torch.tensor([3.0, 4.0])})
    assert norm(delta) == 5
    assert norm({"a": torch.tensor([3.0], dtype=torch.bfloat16), "b": torch.tensor([4.0], dtype=torch.float64)}) == 5
    assert norm({}) == 0
    assert equal(add(before, delta, 0.5), {"a": torch.tensor([2.5, 4.0])})
    assert equal(interpolate(before, after, 0.25), {"a": torch.tensor([1.75, 3.0])})


def test_a_delta_leaves_alone_what_it_does_not_name_and_keeps_the_dtypes():
    base = {"a": torch.ones(1, dtype=torch.bfloat16), "b": torch.ones(1)}
    assert equal(add(base, {"a": torch.ones(1)}), {"a": torch.tensor([2.0], dtype=torch.bfloat16), "b": base["b"]})


@given(st.lists(st.floats(-1e9, 1e9, width=32), min_size=2, max_size=2))
def test_interpolation_is_exact_at_both_ends(values):
    a, b = ({"w": torch.tensor([value])} for value in values)
    assert torch.equal(interpolate(a, b, 0.0)["w"], a["w"])
    assert torch.equal(interpolate(a, b, 1.0)["w"], b["w"])


def test_arithmetic_leaves_its_arguments_alone():
    a, b = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    for result in (subtract(a, b), add(a, b), interpolate(a, b, 0.0)):
        result["w"] += 1
    assert equal(a, {"w": torch.ones(2)})
    assert equal(b, {"w": torch.zeros(2)})


@pytest.mark.parametrize("operation", [subtract, add, lambda a, b: interpolate(a, b, 0.5)])
def test_unlike_weights_are_refused_by_name(operation):
    with pytest.raises(MethodError, match=r"\['b'\] \(1 in all\)"):
        operation({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(MethodError, match=r"a has shape \(1,\) on one side, \(2,\)"):
        operation({"a": torch.ones(1)}, {"a": torch.ones(2)})


def test_what_is_loaded_multiplies_to_the_bits_of_what_was_saved(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    saved = {f"w{i}": torch.randn(4, 63 + i, dtype=torch.float64, generator=rng) for i in range(1, 9)}
    saved |= {f"v{i}": torch.randn(i, dtype=torch.float64, generator=rng) for i in range(1, 9)}  # they shift the rest
    save_tensors(tmp_path / "file", saved)
    for found in (load_tensors(tmp_path / "file"), from_bytes(to_bytes(saved))):
        assert found.keys() == saved.keys()
        for name, matrix in saved.items():
            vector = torch.ones(matrix.shape[-1], dtype=torch.float64) / 3
            assert torch.equal(found[name] @ vector, matrix @ vector)
        assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
