"""Which device, precision and compiler a run uses, each with its reason."""

import os
import shutil
from dataclasses import dataclass

import torch

from rhapsode.errors import UserError
from rhapsode.training.config import TrainingConfig

# a cold compilation takes about twenty seconds here: below a minute it does not pay.
MIN_COMPILE_SECONDS = 60.0


@dataclass(frozen=True)
class Hardware:
    """The resolved choices; `compile_reason` says why compilation is on or off."""

    device: torch.device
    threads: int
    precision: torch.dtype
    compiled: bool
    compile_reason: str

    def describe(self) -> dict[str, object]:
        """Return the choices as plain values for run.json."""
        return {
            "device": str(self.device),
            "threads": self.threads,
            "precision": str(self.precision).removeprefix("torch."),
            "compile": self.compiled,
            "compile_reason": self.compile_reason,
        }


def resolve_hardware(config: TrainingConfig, planned_seconds: float) -> Hardware:
    """Choose device, threads, precision and compilation.

    Args:
        planned_seconds: how long the training is expected to take.

    Raises:
        UserError: if the device does not exist here, or compilation was demanded without a compiler.
    """
    device = resolve_device(config.device)
    compiled, reason = _choose_compile(config, planned_seconds)
    threads = config.threads or _num_cores()
    return Hardware(device, threads, _choose_precision(config, device), compiled, reason)


def apply_hardware(hardware: Hardware) -> None:
    """Set the process-wide switches; before the first parallel operation."""
    torch.set_num_threads(hardware.threads)
    # numbers too small for the normal format slow a step tenfold on a CPU.
    torch.set_flush_denormal(True)


def set_threads(threads: int | None) -> None:
    """Set the process-wide switches where nothing is compiled: threads, by default one a core, and denormals."""
    torch.set_num_threads(threads or _num_cores())
    torch.set_flush_denormal(True)


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a GPU where there is one.

    Raises:
        UserError: if there is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"training.device must name a device of this machine; got '{name}'. Try auto or cpu.") from None
    return device


def _choose_precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    if config.precision != "auto":
        chosen = getattr(torch, config.precision)
        assert isinstance(chosen, torch.dtype)
        return chosen
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _choose_compile(config: TrainingConfig, planned_seconds: float) -> tuple[bool, str]:
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    has_compiler = compiler is not None and shutil.which(compiler) is not None
    if config.compile == "off":
        return False, "switched off"
    if config.compile == "on":
        if not has_compiler:
            raise UserError("training.compile must not be on without a C++ compiler; none was found. Install g++.")
        return True, "switched on"
    if not has_compiler:
        return False, "no C++ compiler was found"
    if planned_seconds <= MIN_COMPILE_SECONDS:
        return False, "no more than a minute is planned"
    return True, "more than a minute is planned"


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
