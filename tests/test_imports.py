"""Who may import whom: ops, functional, nn, models, experiments; arrows never turn back. And what an import loads."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cvkernels

ROOT = Path(__file__).parent.parent
FILES = sorted(
    p for room in ("cvkernels", "models", "experiments", "benchmarks") for p in (ROOT / room).rglob("*.py")
)  # the walk's own files; tests may look anywhere
# A file of one of these may import its own room and those before it.
ARROW = ["cvkernels.ops", "cvkernels.functional", "cvkernels.nn", "models", "experiments"]
FOUNDATIONS = {"cvkernels.backend", "cvkernels.check", "cvkernels.planar"}  # beside ops: any room of the package may


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module a file names in an import line, relative ones resolved, also those inside functions."""
    here = module_of(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import check` names the module check, `from .x import f` the module x
            found |= {f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def rank(name: str) -> int | None:
    found = [i for i, room in enumerate(ARROW) if name == room or name.startswith(f"{room}.")]
    return found[0] if found else None


def backwards(path: Path, seen: set[str]) -> set[str]:
    mine = module_of(path)
    if mine in FOUNDATIONS:
        return {name for name in seen if rank(name) is not None}
    if rank(mine) is None:
        return set()
    # models and experiments take the package by its front door
    doors = {"cvkernels"} if rank(mine) < ARROW.index("models") else set()
    return {name for name in seen if name in doors or (rank(name) is not None and rank(name) > rank(mine))}


def faults(rule) -> dict[str, set[str]]:
    """What a rule forbids of each file's imports."""
    return {str(path.relative_to(ROOT)): bad for path in FILES if (bad := rule(path, imports(path)))}


def looks_out(path: Path, seen: set[str]) -> set[str]:
    return {name for name in seen if name.split(".")[0] in {"benchmarks", "tests"} - {module_of(path).split(".")[0]}}


def loads_triton(path: Path, seen: set[str]) -> set[str]:
    return {name for name in seen if name.split(".")[0] == "triton" and not path.name.startswith("triton_")}


def other_rooms(path: Path, seen: set[str]) -> set[str]:
    mine = module_of(path).split(".")
    if mine[:2] != ["cvkernels", "ops"] or len(mine) < 3:
        return set()
    rooms = {name: name.split(".")[2] for name in seen if name.startswith("cvkernels.ops.")}
    return {name for name, room in rooms.items() if room not in (mine[2], "common")}


# arrows never turn back; nobody looks at benchmarks and tests; triton's one door; rooms do not import one another
@pytest.mark.parametrize("rule", [backwards, looks_out, loads_triton, other_rooms], ids=lambda rule: rule.__name__)
def test_who_may_import_whom(rule):
    assert len(FILES) > 40
    assert not faults(rule)


def test_the_rules_find_what_they_forbid():
    room = ROOT / "cvkernels" / "ops" / "rotate" / "function.py"
    assert {"cvkernels.ops.rotate.reference", "cvkernels.backend", "torch"} <= imports(room)
    assert backwards(room, {"cvkernels.nn.conv", "cvkernels.planar"}) == {"cvkernels.nn.conv"}
    assert backwards(ROOT / "cvkernels" / "check.py", {"cvkernels.ops.rotate"}) == {"cvkernels.ops.rotate"}
    assert looks_out(room, {"tests.close", "torch"}) == {"tests.close"}
    assert loads_triton(room, {"triton.language", "torch"}) == {"triton.language"}
    assert other_rooms(room, {"cvkernels.ops.unrotate.reference", "cvkernels.ops.common.autograd"}) == {
        "cvkernels.ops.unrotate.reference"
    }


IMPORTING = """
import sys
import cvkernels
import torch
heavy = [m for m in ("triton", "torchvision", "matplotlib", "sklearn", "scipy", "PIL", "pandas") if m in sys.modules]
assert not heavy, heavy
assert not torch.cuda.is_initialized()
"""


def test_importing_prints_nothing_starts_no_gpu_and_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def modules():
    names = [m.name for m in pkgutil.walk_packages(cvkernels.__path__, "cvkernels.")]
    # the compiled ones are no Python, and triton's load triton
    names = [n for n in names if not n.rpartition(".")[2].startswith(("_", "triton_"))]
    return [importlib.import_module(n) for n in names]


def undocumented(module) -> list[str]:
    """Functions, classes and the methods they define that have no docstring, of those a user meets."""
    found = []
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            methods = [m for m, f in vars(thing).items() if inspect.isfunction(f) and not m.startswith("_")]
            found += [f"{name}.{m}" for m in methods if not inspect.getdoc(getattr(thing, m))]  # inherited ones count
        elif not inspect.isfunction(thing):
            continue
        found += [] if thing.__doc__ else [name]
    return found


@pytest.mark.parametrize("module", [cvkernels, cvkernels.functional, cvkernels.nn], ids=lambda m: m.__name__)
def test_everything_published_has_a_docstring(module):
    names = [n for n in getattr(module, "__all__", vars(module)) if callable(getattr(module, n))]
    assert names
    assert not [n for n in names if not getattr(module, n).__doc__]


def test_every_module_has_a_docstring_and_so_has_what_users_meet_in_it():
    assert not [m.__name__ for m in modules() if not m.__doc__ and Path(m.__file__).stat().st_size]
    rooms = [
        m for m in modules() if m.__name__.startswith("cvkernels.nn") or m.__name__.endswith((".function", "planar"))
    ]
    assert len(rooms) > 20
    assert not {m.__name__: bare for m in rooms if (bare := undocumented(m))}
