import subprocess
import sys
from pathlib import Path

import pytest

import everlearn
from everlearn.errors import ConfigError
from everlearn.method import Method, chain
from everlearn.names import did_you_mean, name_of, public_names, reference, resolve


def test_public_names_are_those_of_the_package() -> None:
    assert public_names() == everlearn.__all__


def test_a_name_leads_to_its_thing_and_back() -> None:
    assert resolve("Method") is resolve("everlearn.method:Method") is Method
    assert name_of(Method) == "Method"
    assert name_of(Path) == reference(Path) == f"{Path.__module__}:Path"
    assert reference(chain) == "everlearn.method:chain"


def test_the_nearest_name_is_offered_whatever_its_case() -> None:
    assert did_you_mean("lora", ["LoRA", "Replay"]) == ": did you mean 'LoRA'?"
    assert did_you_mean("zzz", ["LoRA", "Replay"]) == ""


@pytest.mark.parametrize("name", ["Nothing", "everlearn.nothing:X", "everlearn.method:nothing", "a b:c", ":x"])
def test_a_name_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        resolve(name)


def test_a_class_made_inside_a_function_has_no_name() -> None:
    class Local: ...

    with pytest.raises(ConfigError, match="at the top of a module"):
        reference(Local)


def test_learning_the_public_names_loads_no_torch() -> None:
    code = "import sys; from everlearn.names import public_names; public_names(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(everlearn.__file__).parents[1])
