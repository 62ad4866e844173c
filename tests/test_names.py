"""Names and loading, over the whole package: no clash with MONAI, no name without a text, no unsafe load."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import monai.bundle
import pytest
from packaging.version import Version

import monai_plan

PACKAGE = Path(monai_plan.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(monai_plan.__path__, "monai_plan."))
SOURCES = sorted(PACKAGE.rglob("*.py"))
# MONAI builds its table of short ``_target_`` names from every loaded module that begins with "monai", ours included.
LOCATOR = monai.bundle.ComponentLocator(excludes=["monai_plan"])


def _public(module: ModuleType) -> set[str]:
    """The names in ``__all__`` and those of the public classes and functions defined in the module."""
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }
    return defined | set(getattr(module, "__all__", ()))


def test_the_walk_over_the_package_finds_its_rooms() -> None:
    rooms = {name.split(".")[1] for name in MODULES}
    wanted = {
        "audit",
        "bundle",
        "cli",
        "data",
        "engines",
        "gan",
        "latent",
        "metrics",
        "networks",
        "release",
        "transforms",
        "utils",
        "__main__",
    }
    assert wanted <= rooms
    assert LOCATOR.get_component_module_name("Compose"), "the locator knows MONAI's names"


@pytest.mark.parametrize("name", MODULES)
def test_no_public_name_is_one_of_monai(name: str) -> None:
    clashes = {
        public: LOCATOR.get_component_module_name(public)
        for public in _public(importlib.import_module(name))
        if LOCATOR.get_component_module_name(public) is not None
    }
    assert clashes == {}


def test_no_two_modules_define_the_same_public_name() -> None:
    """MONAI would take the one or the other, with a warning."""
    homes: dict[str, set[str]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for public in _public(module):
            if (home := getattr(getattr(module, public), "__module__", None)) is not None:
                homes.setdefault(public, set()).add(home)
    assert {public: found for public, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_have_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            # of a class its own: one inherited, or made by dataclass, says nothing
            text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            assert text, f"{public} has no docstring"
            assert not text.startswith(f"{public}("), f"{public} has the docstring that dataclass made"


def _calls(source: str) -> list[tuple[str, ast.Call]]:
    """Every call by its dotted name."""
    return [(ast.unparse(node.func), node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def _unsafe_loads(source: str) -> list[str]:
    """Calls that can execute what is in a file."""
    found = []
    for name, call in _calls(source):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(ast.unparse(call))
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(call))
        if name.split(".")[0] in ("joblib", "dill", "cloudpickle") or name in (
            "pickle.load",
            "pickle.loads",
            "load_url",
        ):
            found.append(ast.unparse(call))
        if name.endswith("Unpickler"):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "pickle.Unpickler(file).load()",
        "np.load(path, allow_pickle=True)",
        "joblib.load(path)",
    ],
)
def test_unsafe_loads_are_seen(line: str) -> None:
    assert _unsafe_loads(f"def f():\n    return {line}\n")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_loads_unsafely(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    assert _unsafe_loads(text) == []
    assert "from torch import load" not in text
    assert "from pickle import" not in text


def test_torch_is_not_imported_for_the_package_or_the_help() -> None:
    """So that ``--help`` and a typing error are answered at once."""
    code = (
        "import sys, monai_plan, monai_plan.__main__ as m\n"
        "try:\n    m.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'monai', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_wheel_has_every_package() -> None:
    """``setup.cfg`` names them one by one, since the bundles come from beside the package."""
    parser = configparser.ConfigParser()
    parser.read(PACKAGE.parent / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    there = {
        path.parent.relative_to(PACKAGE.parent).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")
    }
    assert listed == there | {"monai_plan.bundles"}


def test_the_oldest_environment_is_that_of_the_lower_bounds() -> None:
    parser = configparser.ConfigParser()
    parser.read(PACKAGE.parent / "setup.cfg")
    needs = parser["options"]["install_requires"].split() + parser["options.extras_require"]["test"].split()
    bounds = {name: Version(version) for name, version in (need.split(">=") for need in needs)}
    lines = (PACKAGE.parent / "scripts" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    del bounds["ruff"], bounds["mypy"]  # not run there
    assert {name: Version(version) for name, version in pins} == bounds
