"""The house: imports run downward only, modules stay small, public names are what the design says."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_relu_suite as krs

PACKAGE = Path(krs.__file__).parent
ORDER = [
    ("errors",), ("report",), ("smooth",), ("semantics",), ("_fused",), ("ops",), ("layers", "initializers"),
    ("structure", "recognize"), ("opaque", "wiring"), ("describe", "optimizers"),
    ("tflite",), ("monitor",), ("callbacks", "export", "devices", "swap"), ("verify",), ("analysis",), ("demo",),
    ("given",), ("cli",), ("__main__",),
]  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
SUPPORT = {"_version", "_verb", "_stderr", "_bar", "__init__"}
MODULES = sorted(p.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """errors for keras_relu_suite/errors.py, tflite for keras_relu_suite/tflite/graph.py."""
    return path.parts[1].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "keras_relu_suite" and len(parts) > 1:
                found.add(parts[1])
    return found & (set(RANK) | SUPPORT)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_run_downward(path):
    mine = part(path)
    if mine in SUPPORT:
        return
    assert mine in RANK, f"{path}: give {mine!r} a place in the order of imports"
    above = {name for name in imported(path) - SUPPORT - {mine} if RANK[name] >= RANK[mine]}
    assert not above, f"{path} imports {above}, which stand beside or above {mine}"


def test_one_folder_knows_tf_keras_and_tfmot():
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if {name.split(".")[0] for name in names} & {"tf_keras", "tensorflow_model_optimization"}:
                found.add(path.parent.relative_to("keras_relu_suite").as_posix())
    assert found == {"export/qat"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_are_small_and_documented(path):
    text = (PACKAGE.parent / path).read_text()
    assert text.count("\n") <= 300, f"{path} is longer than 300 lines: split it by noun"
    if path.name != "_version.py":
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_public_function_has_a_docstring(path):
    for node in ast.parse((PACKAGE.parent / path).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_public_names():
    assert set(krs.__all__) <= set(dir(krs))
    for name in krs.__all__:
        assert getattr(krs, name) is not None
    assert krs.callbacks.DeadNeuronMonitor
    assert krs.layers.PReLU
    with pytest.raises(AttributeError, match="no_such"):
        krs.no_such  # noqa: B018


def test_verbs_are_packages_and_functions_whatever_was_imported_before():
    importlib.import_module("keras_relu_suite.verify.check")
    importlib.import_module("keras_relu_suite.export.convert")
    assert callable(krs.export) and callable(krs.verify)
    assert krs.export.Spec("float32").mode == "float32"
    assert "calibration" in str(krs.export.__signature__)


def test_importing_the_package_loads_nothing_that_keras_did_not():
    code = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"  # keras itself imports what it finds: rich, matplotlib, scikit-learn
        "import keras_relu_suite\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith('keras_relu_suite')}\n"
        "assert not new, new\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
