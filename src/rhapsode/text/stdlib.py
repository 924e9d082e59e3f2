"""The text that every Python has: documentation and code of the standard library.

It needs no download, about 2.2 MB of prose and 12 MB of code. Both vary with the version of Python, which
is why the hash of the data is saved with every run. Modules are read, never imported.
"""

import ast
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from inspect import cleandoc
from pathlib import Path

from rhapsode.errors import StateError
from rhapsode.text.readers import Document, RawDocument

_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"}


class StdlibReader:
    """The standard library's prose, or with `source` its code, as documents."""

    def __init__(self, *, source: bool) -> None:
        self.source = source

    def documents(self) -> Iterator[RawDocument]:
        """Yield a document for each help topic and each module with docstrings, or for each source file.

        Cost: the prose takes about 2 s the first time in a process, because every file is parsed.
        """
        if self.source:
            for path in stdlib_files():
                yield RawDocument(f"stdlib:source/{_relative(path)}", (_read_source(path),))
        else:
            for document in _prose():
                yield RawDocument(document.name, (document.text,))


@cache
def stdlib_files(root: Path | None = None) -> tuple[Path, ...]:
    """Return the standard library's source files, sorted, without tests, idlelib and installed packages.

    Args:
        root: where to look; default: where this Python keeps its library.

    Raises:
        StateError: if this Python has none, as when it is frozen into one file.
    """
    found = []
    root = root or _root()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    if not found:
        raise StateError(f"the standard library must be there as source files; {root} has none. Name a file instead.")
    return tuple(found)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions, in the order of the source."""
    if module_doc := ast.get_docstring(tree):
        yield module_doc
    yield from _nested_docstrings(tree)


def _nested_docstrings(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(child)
        ):
            yield text
        if isinstance(child, ast.stmt):
            yield from _nested_docstrings(child)


@cache
def _prose() -> tuple[Document, ...]:
    documents = []
    for path in stdlib_files():
        with warnings.catch_warnings():
            # the library's own doubtful escapes are no concern of the reader's.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
        if path.parts[-2:] == ("pydoc_data", "topics.py"):
            documents += [Document(f"stdlib:topics/{name}", cleandoc(text)) for name, text in _topics(tree).items()]
        elif text := "\n\n".join(docstrings(tree)):
            documents.append(Document(f"stdlib:{_relative(path)}", text + "\n"))
    return tuple(documents)


def _topics(tree: ast.Module) -> dict[str, str]:
    assigned = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    topics: dict[str, str] = ast.literal_eval(assigned)
    return topics


def _read_source(path: Path) -> str:
    # a few files declare another encoding in their first lines.
    with tokenize.open(path) as file:
        return file.read()


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _relative(path: Path) -> str:
    return path.relative_to(_root()).as_posix()
