"""Device, precision and compilation, each with its reason."""

import json
import shutil

import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.training.config import TrainingConfig
from rhapsode.training.hardware import apply_hardware, resolve_device, resolve_hardware


def config(**values: object) -> TrainingConfig:
    return TrainingConfig.model_validate(values)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    for name in ("abacus", "cuda:99", ""):
        with pytest.raises(UserError, match=rf"^training\.device must name a device of this machine; got '{name}'\."):
            resolve_device(name)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_given_precision_is_taken(name: str) -> None:
    assert resolve_hardware(config(precision=name, device="cpu"), 0).precision == getattr(torch, name)


def test_precision_on_a_cpu_is_what_the_processor_has() -> None:
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    expected = torch.bfloat16 if has_bfloat16 else torch.float32
    assert resolve_hardware(config(device="cpu"), 0).precision == expected


def test_compilation_says_why() -> None:
    def choose(compile_setting: str, seconds: float) -> tuple[bool, str]:
        hardware = resolve_hardware(config(compile=compile_setting), seconds)
        return hardware.compiled, hardware.compile_reason

    assert choose("off", 1e6) == (False, "switched off")
    if shutil.which("g++") is None and shutil.which("clang++") is None and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    assert choose("on", 0) == (True, "switched on")
    assert choose("auto", 60) == (False, "no more than a minute is planned")
    assert choose("auto", 61) == (True, "more than a minute is planned")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert resolve_hardware(config(), 1e6).compile_reason == "no C++ compiler was found"
    assert not resolve_hardware(config(), 1e6).compiled
    with pytest.raises(UserError, match=r"^training\.compile must not be on without a C\+\+ compiler; none was found"):
        resolve_hardware(config(compile="on"), 0)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"^training\.compile must not be on without"):
        resolve_hardware(config(compile="on"), 0)


def test_threads_are_set() -> None:
    hardware = resolve_hardware(config(threads=2, device="cpu", precision="float32", compile="off"), 0)
    apply_hardware(hardware)
    assert torch.get_num_threads() == 2
    assert resolve_hardware(config(), 0).threads >= 1
    described = json.loads(json.dumps(hardware.describe()))
    assert described == {
        "device": "cpu",
        "threads": 2,
        "precision": "float32",
        "compile": False,
        "compile_reason": "switched off",
    }
