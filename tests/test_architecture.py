"""The shape of the code: who imports whom, how large files are, how clean, and how quick to start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cellkit"

MAY_IMPORT = {
    "core": set(),
    "grid": {"core"},
    "formats": {"core"},
    "metrics": {"core"},
    "io": {"core", "formats", "grid"},
    "models": {"core", "grid"},
    "stages": {"core", "formats", "models"},
    "engine": {"core", "grid", "formats", "io", "report", "models"},
    "report": {"core", "formats", "metrics"},
    "diff": {"core", "grid", "metrics", "io", "formats", "report"},
    "tune": {"core", "metrics", "io", "engine", "formats", "models", "train"},
    "recipes": set(),
    "train": {"core", "grid", "models", "metrics", "io", "engine", "formats", "report"},
}


def imported(path: Path) -> set[str]:
    """Return the parts of cellkit that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("cellkit.")}
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_who_imports_whom(part):
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        # __version__ is a plain string of the package itself.
        wrong = imported(path) - MAY_IMPORT[part] - {part, "__version__"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_recipes_are_tuned_without_what_trains():
    for path in (PACKAGE / "tune").glob("*.py"):
        if not path.name.startswith(("config_", "trainings")):
            assert not imported(path) & {"train", "models"}, path.name


def test_every_part_is_listed():
    parts = {p.name for p in PACKAGE.iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert parts == set(MAY_IMPORT)


def test_core_needs_numpy_and_yaml_only():
    heavy = {"cv2", "scipy", "skimage", "pandas", "numba", "torch", "PIL", "tifffile", "pyarrow", "click", "rich"}
    for path in (PACKAGE / "core").glob("*.py"):
        if path.name == "compile.py":  # imports numba when a kernel is asked for, which nothing in core does
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {n for node in ast.walk(tree) if is_type_checking(node) for n in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in guarded:
                assert not {a.name.split(".")[0] for a in node.names} & heavy, path
            if isinstance(node, ast.ImportFrom) and node not in guarded:
                assert (node.module or "").split(".")[0] not in heavy, path


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_files_stay_small():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "cli").glob("*.py")]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 420, f"{path.relative_to(ROOT)} has {lines} lines: split it by idea"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sys; sys.argv = ['cellkit', '--help']; from cellkit_cli.main import cli; cli(standalone_mode=False)",
         ("torch", "cv2", "skimage", "scipy", "numba", "pandas", "pyarrow", "tifffile")),
        ("import cellkit", ("torch", "cv2", "skimage", "scipy", "numba", "pandas", "pyarrow", "tifffile", "yaml")),
        ("import cellkit; cellkit.core.registry.stages()", ("torch", "skimage", "scipy", "numba", "pandas", "pyarrow")),
    ],
)  # fmt: skip
def test_heavy_libraries_wait_until_they_are_needed(code, absent):
    code = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_style_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_machine_paths_or_pickles():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "cli").glob("*.py"), *(ROOT / "examples").glob("*.*")]:
        text = path.read_text(encoding="utf-8")
        for word in ("/work/", "/root/", "/home/", "import pickle", "allow_pickle=True", "yaml.load(text)\n"):
            assert word not in text, f"{path.relative_to(ROOT)}: {word}"
