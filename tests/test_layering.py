"""The import line of the project, held by walking every syntax tree, and the modules that stay free of torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "rhapsode"

# a module imports only from what has a lower rank, or from its own package.
LINE: tuple[tuple[str, ...], ...] = (
    ("errors", "config", "registry", "runfolder", "recipes", "curricula"),
    ("ops",),
    ("text", "nn", "memory"),
    ("models",),
    ("generation",),
    ("training",),
    ("answering",),
    ("evaluation",),
    ("tuning",),
    ("api",),
    ("server",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LINE) for name in names}
GROUND = set(LINE[0])
# importer -> the only module of a package of the same rank that it may use.
EXCEPTIONS = {("nn", "memory"): "rhapsode.memory.contracts"}
# the root package hands these out of `rhapsode.api`.
ROOT_NAMES = {"load", "train"}
# a module named by a string: a registry entry, or an argument of import_module.
TARGET = re.compile(r"rhapsode(\.\w+)+(:\w+)?")


def module_name(file: Path, root: Path) -> str:
    parts = ["rhapsode", *file.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of all that a module imports from the project, at any depth of its code.

    `package` is what relative imports start from. A name imported from a package is yielded as
    `package.name`, since it may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and TARGET.fullmatch(node.value):
            yield node.lineno, node.value.partition(":")[0]


def violation(importer: str, imported: str) -> str | None:
    """Say what is wrong with `importer` using `imported`, both dotted names, or None."""
    own = importer.partition(".")[2].partition(".")[0]
    parts = imported.split(".")
    if parts[0] != "rhapsode" or imported == "rhapsode.__version__":
        return None
    target = parts[1] if len(parts) > 1 else "api"
    if target in ROOT_NAMES or target == "*":
        target = "api"
    if own == "" or target == own:
        return None
    for layer in (own, target):
        if layer not in RANK:
            return f"'{layer}' has no place in the line"
    if RANK[target] < RANK[own] or {own, target} <= GROUND:
        return None
    allowed = EXCEPTIONS.get((own, target))
    if allowed is not None and (imported == allowed or imported.startswith(f"{allowed}.")):
        return None
    return f"{own} must not import {target}"


def violations(root: Path) -> list[str]:
    found = []
    for file in sorted(root.rglob("*.py")):
        importer = module_name(file, root)
        package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
        for line, imported in imported_modules(ast.parse(file.read_text(encoding="utf-8")), package):
            if problem := violation(importer, imported):
                found.append(f"{file.relative_to(root)}:{line}: {problem} ({imported})")
    return found


def test_every_import_points_left() -> None:
    assert len(list(SOURCE.rglob("*.py"))) > 20
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "code", "problem"),
    [
        ("ops/x.py", "import rhapsode.models.decoder", "ops must not import models"),
        ("ops/x.py", "from rhapsode.nn.norm import rms_norm", "ops must not import nn"),
        ("ops/x.py", "def f():\n    def g():\n        from rhapsode import models", "ops must not import models"),
        ("ops/x.py", "from rhapsode import load", "ops must not import api"),
        ("ops/x.py", "from rhapsode import *", "ops must not import api"),
        ("ops/x.py", "import rhapsode", "ops must not import api"),
        ("ops/deep/x.py", "from ...training import loop", "ops must not import training"),
        ("ops/__init__.py", "from ..text import pieces", "ops must not import text"),
        ("nn/x.py", "if TYPE_CHECKING:\n    from rhapsode.text import pieces", "nn must not import text"),
        ("nn/x.py", "from rhapsode.memory.unigram import Unigram", "nn must not import memory"),
        ("nn/x.py", "from rhapsode.memory import contracts_of_another_kind", "nn must not import memory"),
        ("memory/x.py", "from rhapsode.nn.contracts import Mixer", "memory must not import nn"),
        ("text/x.py", "from rhapsode.memory import contracts", "text must not import memory"),
        ("errors.py", "from rhapsode.ops.rotary import rotate", "errors must not import ops"),
        ("nn/config.py", "ENTRY = {'x': ('rhapsode.models.decoder:Decoder', 'one line')}", "nn must not import models"),
        ("nn/x.py", "import_module('rhapsode.generation')", "nn must not import generation"),
        ("models/x.py", "try:\n    import rhapsode.cli\nexcept ImportError:\n    pass", "models must not import cli"),
        ("ops/x.py", "import rhapsode.somewhere", "'somewhere' has no place in the line"),
        ("somewhere/x.py", "import rhapsode.ops", "'somewhere' has no place in the line"),
    ],
)
def test_an_import_that_points_right_is_caught(tmp_path: Path, file: str, code: str, problem: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert [found for found in violations(tmp_path) if problem in found]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("nn/x.py", "from rhapsode.memory.contracts import Retriever"),
        ("nn/x.py", "from rhapsode.memory import contracts"),
        ("models/x.py", "import rhapsode.memory.contracts, rhapsode.nn.block, torch"),
        ("config.py", "from rhapsode.errors import UserError"),
        ("nn/x.py", "from .norm import rms_norm\nfrom . import linear\nfrom ..ops import rotary"),
        ("cli/x.py", "from rhapsode import __version__, load"),
        ("ops/x.py", '"""It mentions rhapsode.models in prose."""\nimport torch'),
    ],
)
def test_an_import_that_points_left_is_not(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert violations(tmp_path) == []


def _heavy_after_importing(modules: list[str], heavy: list[str]) -> str:
    """Import `modules` one after another in a fresh interpreter; return those after which one of `heavy` is loaded."""
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    for part in {heavy!r}:\n"
        "        if part in sys.modules: sys.exit(f'{name} imports {part}')\n"
        "print('none')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr.strip()


def test_configs_do_not_import_torch() -> None:
    configs = [module_name(file, SOURCE) for file in sorted(SOURCE.rglob("config.py"))]
    assert {"rhapsode.config", "rhapsode.nn.config", "rhapsode.models.config"} <= set(configs)
    ground = [f"rhapsode.{name}" for name in LINE[0]]
    assert _heavy_after_importing([*ground, *configs], ["torch"]) == "none"


def test_the_root_imports_neither_torch_nor_numpy() -> None:
    assert _heavy_after_importing(["rhapsode", "rhapsode.registry"], ["torch", "numpy"]) == "none"


def test_a_module_that_imports_torch_is_noticed() -> None:
    assert _heavy_after_importing(["rhapsode.ops.rotary"], ["torch"]) == "rhapsode.ops.rotary imports torch"
