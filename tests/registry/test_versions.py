import hashlib
import json
from dataclasses import replace

import pytest
import torch

from everlearn.errors import MethodError, RegistryError
from everlearn.registry import versions
from everlearn.registry.versions import Size, Versions
from everlearn.types import State
from everlearn.weights import equal
from tests.killing import killed_at_random, outcome


def weights(seed: int, count: int = 4, size: int = 1000) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(size, generator=source) for i in range(count)}


def blobs(store: Versions) -> list[str]:
    return sorted(path.name for path in (store.folder / "blobs").iterdir())


def test_a_state_comes_back_in_the_same_bits_and_order(tmp_path):
    store = Versions(tmp_path)
    state = State(
        weights={"b": torch.tensor([float("nan"), -0.0]), "a": torch.ones(2, 3, dtype=torch.bfloat16).t()},
        memory=[{"rows": [{"text": "één"}], 3: torch.arange(3)}, (float("inf"), None)],
        seen=("first", "second"),
    )
    version = store.put(state, None, {"model": "tiny"})
    found = Versions(tmp_path).get(version)
    assert equal(found.weights, state.weights)
    assert list(found.weights) == ["b", "a"]
    assert list(found.memory[0]) == ["rows", 3]
    assert torch.equal(found.memory[0][3], torch.arange(3))
    assert found.memory[0]["rows"] == [{"text": "één"}]
    assert found.memory[1] == (float("inf"), None)
    assert found.seen == state.seen


def test_an_empty_state_is_a_version_too(tmp_path):
    store = Versions(tmp_path)
    assert store.list() == ()
    assert store.get(store.put(State(), None, {})) == State()


def test_a_manifest_says_where_a_version_comes_from(tmp_path):
    store = Versions(tmp_path)
    first = store.put(State(weights(0), None, ("a",)), None, {"model": "tiny"})
    second = store.put(State(weights(1), None, ("a", "b")), first[:6], {"model": "tiny"})
    manifest = store.manifest(second)
    assert manifest["id"] == second
    assert (manifest["parent"], manifest["about"], manifest["seen"]) == (first, {"model": "tiny"}, ["a", "b"])
    assert store.manifest(first)["parent"] is None
    assert set(store.list()) == {first, second}


def test_an_id_is_the_hash_of_what_is_stored(tmp_path):
    state = State(weights(0), {"kept": torch.ones(2)}, ("a",))
    ids = [Versions(tmp_path / name).put(state, None, {"x": 1, "y": 2}) for name in ("one", "two")]
    assert ids[0] == ids[1]
    store = Versions(tmp_path / "one")
    content = (tmp_path / "one" / "versions" / f"{ids[0]}.json").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:12] == ids[0]
    for other in (replace(state, seen=("b",)), replace(state, memory=None), replace(state, weights=weights(1))):
        assert store.put(other, None, {"x": 1, "y": 2}) != ids[0]
    assert store.put(state, ids[0], {"x": 1, "y": 2}) != ids[0]
    assert store.put(state, None, {"y": 2, "x": 1}) == ids[0]


def test_any_tool_can_check_a_blob(tmp_path):
    store = Versions(tmp_path)
    store.put(State(weights(0), [torch.ones(3)]), None, {})
    assert len(blobs(store)) == 3
    for path in (tmp_path / "blobs").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_many_tensors_of_an_adapter_are_one_file(tmp_path):
    store = Versions(tmp_path)
    store.put(State(weights(0, count=420, size=10)), None, {})
    assert len(blobs(store)) == 2, "one of tensors, one of the memory's skeleton"


def test_what_the_parent_holds_is_not_stored_again(tmp_path):
    store = Versions(tmp_path)
    bank = weights(0, count=10, size=10_000)
    first = store.put(State(bank), None, {})
    assert store.sizes(first) == Size(total=store.sizes(first).added, added=store.sizes(first).added)
    before = blobs(store)
    grown = bank | {"new": torch.ones(100)}
    second = store.put(State(grown), first, {})
    assert len(blobs(store)) == len(before) + 1
    assert store.sizes(second).added < 1000 < 400_000 < store.sizes(second).total
    assert equal(store.get(second).weights, grown)
    third = store.put(State(grown, seen=("x",)), second, {})
    assert store.sizes(third).added == 0
    assert equal(store.get(third).weights, grown)


def test_an_anchor_equal_to_the_weights_is_stored_once_and_comes_back_apart(tmp_path):
    store = Versions(tmp_path)
    some = weights(0)
    version = store.put(State(some, {"anchor": dict(some)}), None, {})
    assert store.sizes(version).total < 4 * 4000 + 2000
    found = store.get(version)
    assert equal(found.memory["anchor"], some)
    found.weights["layer.0.weight"].zero_()
    assert equal(found.memory["anchor"], some)


def test_tied_tensors_are_stored_once_and_come_back_apart(tmp_path):
    store = Versions(tmp_path)
    tied = torch.ones(10_000)
    version = store.put(State({"a": tied, "b": tied}), None, {})
    assert store.sizes(version).total < 2 * tied.nbytes
    found = store.get(version).weights
    found["a"].zero_()
    assert torch.equal(found["b"], tied)


def test_large_weights_are_split_into_several_blobs(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "GROUP", 10_000)
    store = Versions(tmp_path)
    some = weights(0, count=10, size=1000) | {"huge": torch.ones(5000)}
    version = store.put(State(some), None, {})
    sizes = [path.stat().st_size for path in (tmp_path / "blobs").glob("*.safetensors")]
    assert len(sizes) == 6
    assert sum(size > 11_000 for size in sizes) == 1
    assert equal(store.get(version).weights, some)


def test_a_unique_start_of_an_id_is_enough(tmp_path):
    store = Versions(tmp_path)
    ids = [store.put(State(seen=(str(i),)), None, {}) for i in range(17)]
    assert all(store.manifest(i[:10])["id"] == i for i in ids)
    shared = next(i[0] for i in ids if sum(j.startswith(i[0]) for j in ids) > 1)
    with pytest.raises(RegistryError, match=f"'{shared}' begins several versions"):
        store.get(shared)
    for unknown in ("xyz", "", "../x", "*"):
        with pytest.raises(RegistryError, match="no version"):
            store.get(unknown)


def test_an_unknown_parent_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="no version 'abc'"):
        Versions(tmp_path).put(State(), "abc", {})


def test_what_is_not_plain_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MethodError, match=r"memory is a builtins\.object"):
        Versions(tmp_path).put(State(memory=object()), None, {})
    for about in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(RegistryError, match="about of this version is not plain JSON"):
            Versions(tmp_path).put(State(), None, about)
    assert Versions(tmp_path).list() == ()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\x01", lambda data: b""])
@pytest.mark.parametrize("place", ["blobs/*.safetensors", "blobs/*.json", "versions/*.json"])
def test_a_damaged_file_is_named_and_never_read(tmp_path, damage, place):
    store = Versions(tmp_path)
    version = store.put(State(weights(0)), None, {})
    (path,) = tmp_path.glob(place)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RegistryError, match=rf"{path.name} is damaged: .* restore it .* or roll back"):
        store.get(version)


def test_a_missing_blob_is_named(tmp_path):
    store = Versions(tmp_path)
    version = store.put(State(weights(0)), None, {})
    (path,) = tmp_path.glob("blobs/*.safetensors")
    path.unlink()
    with pytest.raises(RegistryError, match=rf"{path.name} cannot be read \(No such file"):
        store.get(version)


def test_a_manifest_of_another_format_is_refused(tmp_path):
    store = Versions(tmp_path)
    store.put(State(), None, {})
    (path,) = tmp_path.glob("versions/*.json")
    later = json.dumps(json.loads(path.read_text()) | {"format": 2}).encode()
    version = hashlib.sha256(later).hexdigest()[:12]
    (tmp_path / "versions" / f"{version}.json").write_bytes(later)
    with pytest.raises(RegistryError, match="format 2, not 1; update everlearn"):
        store.get(version)


def test_storing_again_mends_a_damaged_blob(tmp_path):
    store = Versions(tmp_path)
    state = State(weights(0))
    version = store.put(state, None, {})
    (path,) = tmp_path.glob("blobs/*.safetensors")
    path.write_bytes(b"damaged")
    child = store.put(state, version, {})
    assert equal(store.get(child).weights, state.weights), "a parent's blob that is not whole is not referred to"
    assert equal(store.get(version).weights, state.weights)


STORING = """
import sys
from pathlib import Path
import torch
from everlearn.registry.versions import Versions
from everlearn.types import State
from everlearn.weights import equal
from tests.killing import killed_at_each_touch

torch.set_num_threads(1)
store = Versions(Path(sys.argv[1]))
first = State({"a": torch.ones(1000)}, {"kept": torch.zeros(10)}, ("one",))
parent = store.put(first, None, {})
second = State({"a": torch.ones(1000), "b": torch.ones(500)}, {"kept": torch.full((10,), 2.0)}, ("one", "two"))
kills, ids = 0, set()
for moment in killed_at_each_touch(lambda: store.put(second, parent, {})):
    kills += 1
    for version in store.list():
        found = store.get(version)
        assert equal(found.weights, (first if version == parent else second).weights), moment
    ids |= set(store.list())
assert ids == set(store.list()) | {store.put(second, parent, {})}
assert len(ids) == 2
left = [path.name for path in store.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
print(kills, len(left))
"""


def test_a_store_is_whole_at_whichever_touch_of_the_disk_its_writer_is_killed(tmp_path):
    kills, left = map(int, outcome(STORING, tmp_path).split())
    assert kills > 15
    assert left == 7, "a manifest, new weights and new memory of each, one skeleton; nothing half and nothing twice"


STORER = """
import os, sys
from pathlib import Path
import torch
from everlearn.registry.versions import Versions
from everlearn.types import State

torch.set_num_threads(1)
store = Versions(Path(sys.argv[1]))
print("ready", flush=True)
number = os.getpid() * 1000  # other versions in each process
while True:
    number += 1
    store.put(State({"a": torch.full((100_000,), number)}, None, (str(number),)), None, {})
"""


def test_a_reader_never_sees_half_a_version_whenever_its_writer_is_killed(tmp_path):
    store = Versions(tmp_path)
    seen = set()

    def look():
        for version in set(store.list()) - seen:
            state = store.get(version)
            assert torch.equal(state.weights["a"], torch.full((100_000,), int(state.seen[0])))
            seen.add(version)

    killed_at_random(STORER, look, tmp_path, seeds=range(2))
    assert len(seen) >= 2
