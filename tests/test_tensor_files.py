"""Files in rows are what the safetensors library writes and reads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from everlearn.errors import ModelError
from everlearn.tensor_files import INDEX, KINDS, Held, Mean, Spans, extent, model_files, read_header, write_rows

TENSORS = {
    "matrix": torch.arange(12.0).reshape(4, 3),
    "half": torch.arange(6).reshape(3, 2).bfloat16(),
    "vector": torch.arange(5, dtype=torch.float64),
    "number": torch.tensor(7),
    "deep": torch.arange(24, dtype=torch.int32).reshape(2, 3, 4),
    "empty": torch.zeros(0, 3),
    "truth": torch.tensor([True, False]),
}


def test_rows_are_those_of_the_library(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "t.safetensors")
    assert header.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        stored, (rows, columns) = header[name], extent(tuple(tensor.shape))
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(stored.rows(0, rows).reshape(tensor.shape), tensor)
        for start in range(rows):
            assert torch.equal(stored.rows(start, start + 1), Held(tensor).rows(start, start + 1))
            assert stored.rows(start, start + 1).shape == (1, columns)


def test_what_is_written_in_blocks_is_read_by_the_library(tmp_path: Path) -> None:
    held = {n: Held(t) for n, t in TENSORS.items()}
    blocks = (held[n].rows(i, i + 1) for n in held for i in range(extent(held[n].shape)[0]))
    write_rows(tmp_path / "t.safetensors", held, blocks)
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in TENSORS.items())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_dtype_goes_there_and_back(kind: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[0, 1], [1, 0]]).to(kind)
    write_rows(tmp_path / "t.safetensors", {"t": Held(tensor)}, [tensor])
    assert torch.equal(read_header(tmp_path / "t.safetensors")["t"].rows(0, 2).float(), tensor.float())
    assert load_file(tmp_path / "t.safetensors")["t"].dtype == kind


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 8 + b"{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="no readable safetensors"):
        read_header(tmp_path / "t.safetensors")
    with pytest.raises(ModelError, match="no readable safetensors"):
        read_header(tmp_path / "missing.safetensors")


def test_a_file_that_is_cut_short_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"a": torch.zeros(4, 4)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    stored = read_header(path)["a"]
    assert stored.rows(0, 3).shape == (3, 4)
    with pytest.raises(ModelError, match="cut short"):
        stored.rows(3, 4)


def test_spans_are_rows_of_several_tensors_and_a_mean_is_taken_row_by_row() -> None:
    one, two = Held(torch.arange(8.0).view(4, 2)), Held(torch.arange(8.0, 12).view(2, 2).double())
    spans = Spans(((one, 0, 1), (two, 0, 2), (one, 2, 2), (one, 3, 4)))
    expected = torch.tensor([[0.0, 1], [8, 9], [10, 11], [6, 7]]).double()
    assert (spans.shape, spans.dtype) == ((4, 2), torch.float64)
    for start in range(4):
        for stop in range(start + 1, 5):
            assert torch.equal(spans.rows(start, stop).double(), expected[start:stop])
    mean = Mean((one, spans), (3.0, 1.0), torch.float32)
    assert mean.shape == (4, 2)
    assert mean.rows(1, 3).tolist() == [[3.5, 4.5], [5.5, 6.5]]  # (3 * 2 + 8) / 4 and so on


def test_the_index_says_which_files_are_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        model_files(tmp_path)
    for name in ("consolidated", "model-1", "model-2"):
        save_file({name: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    (tmp_path / INDEX).write_text('{"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors"}}')
    assert [p.name for p in model_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
