"""What pip installs, and that it installs: without a compiler, without nvcc, with nvcc, without torch.

Every build runs on a copy of the tree and goes into an environment of its own, which borrows this one's torch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cvkernels import backend
from tests.close import assert_close

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_path("purelib"))
COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
NO_COMPILER_LINE = "cvkernels: no C++ compiler: installing without compiled kernels"
CPU_ONLY_LINE = "cvkernels: building for the CPU only: "

# Builds nothing: what setup.py would hand to setuptools.
PLAN = """
import json, runpy, setuptools
def setup(packages, ext_modules, **metadata):
    print(json.dumps({"packages": packages, "sources": {e.name: e.sources for e in ext_modules}}))
setuptools.setup = setup
runpy.run_path("setup.py")
"""
BUILD_WHEEL = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
BUILD_SDIST = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"

# Runs in the new environment, far from the checkout.
USE = """
import cvkernels
from cvkernels import backend, functional as F
assert "site-packages" in cvkernels.__file__, cvkernels.__file__
import json, torch
z = torch.randn(2, 2, 3, 4, 4, requires_grad=True)
y = F.magnitude_max_pool2d(F.batch_norm_relu(z, training=True), 2)
y.square().sum().backward()
with backend.use_backend("reference"):
    wide = z.detach().double()
    w = F.magnitude_max_pool2d(F.batch_norm_relu(wide, training=True), 2)
facts = backend.build_facts()
print(json.dumps({
    "got": y.tolist(), "want": w.tolist(), "grad": bool(z.grad.isfinite().all()),
    "ran": backend.choose(backend.OPS["batch_norm_relu"], z),
    "absent": {name: backend.absent(name) for name in backend.BACKENDS},
    "archs": facts and facts.archs,
}))
"""


def assert_right(facts):
    """The installed package computed what the reference does, and a finite gradient."""
    assert_close(torch.tensor(facts["got"]), torch.tensor(facts["want"], dtype=torch.float64))
    assert facts["grad"]


def run(code, *arguments, cwd, python=sys.executable, hide=(), **variables):
    """``python -c code`` where the programs named in ``hide`` are not to be found."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CVKERNELS", "TORCH_CUDA", "CUDA_", "CXX"))}
    folders = [str(Path(sys.executable).parent), *os.get_exec_path()]  # ninja may stand beside this python alone
    environment["PATH"] = os.pathsep.join(without(d, hide, Path(cwd).parent) for d in folders)
    if "nvcc" in hide:
        environment["CUDA_HOME"] = "/nonexistent"  # a toolkit where they are put by default is found without the PATH
    environment.update(variables)
    command = [python, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def without(folder: str, hide, scratch: Path) -> str:
    """The folder, or one of links to all it holds but the programs to hide."""
    if not any(Path(folder, name).exists() for name in hide):
        return folder
    shadow = Path(tempfile.mkdtemp(dir=scratch))
    for program in Path(folder).iterdir():
        if program.name not in hide:
            (shadow / program.name).symlink_to(program)
    return str(shadow)


def succeeded(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def said(done) -> list[str]:
    """The lines that the build addressed to the user."""
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("cvkernels: ")]


@pytest.fixture
def tree(tmp_path):
    """The checkout as a fresh clone would have it: nothing built."""
    built = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "__pycache__", "build", "dist", "runs", "demo")
    return Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=built))


@pytest.fixture
def install(tmp_path):
    """Installs a wheel into a fresh environment and gives its python, run from elsewhere."""

    def installed(wheel: Path) -> str:
        venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
        python = str(tmp_path / "venv" / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
        succeeded(subprocess.run(pip, capture_output=True, text=True))
        (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
        (site / "borrowed.pth").write_text(f"{SITE}\n")  # last on the path, and its own .pth files are not read
        return python

    return installed


def used(python: str, tmp_path: Path) -> dict:
    done = succeeded(run(USE, cwd=tmp_path, python=python, CUDA_VISIBLE_DEVICES=""))
    assert done.stderr == "" and done.stdout.count("\n") == 1, "importing cvkernels prints nothing"
    return json.loads(done.stdout)


def test_pip_installs_cvkernels_alone_and_whole(tree):
    (tree / "models" / "__init__.py").touch()
    packages = json.loads(succeeded(run(PLAN, cwd=tree, CVKERNELS_CUDA="0")).stdout)["packages"]
    folders = {p.parent.relative_to(tree) for p in (tree / "cvkernels").rglob("*.py")}
    assert set(packages) == {".".join(folder.parts) for folder in folders}


def test_sdist_has_every_source(tree, tmp_path):
    name = succeeded(run(BUILD_SDIST, tmp_path, cwd=tree, CVKERNELS_CUDA="0")).stdout.split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        held = {"/".join(Path(n).parts[1:]) for n in archive.getnames()}
    sources = {str(p.relative_to(tree)) for folder in ("csrc", "cvkernels") for p in (tree / folder).rglob("*.*")}
    assert any(s.endswith(".h") for s in sources)
    assert sources - held == set()
    assert {"setup.py", "pyproject.toml", "LICENSE"} <= held


def test_installs_and_works_without_a_compiler(tree, tmp_path, install):
    hidden = ("c++", "g++", "clang++", "nvcc")
    done = succeeded(run(BUILD_WHEEL, tmp_path, cwd=tree, hide=hidden, CXX="/nonexistent"))
    assert [line.startswith(NO_COMPILER_LINE) for line in said(done)] == [True], done.stderr
    wheel = tmp_path / done.stdout.split()[-1]
    assert wheel.name.endswith("-py3-none-any.whl")
    facts = used(install(wheel), tmp_path)
    assert_right(facts)
    assert facts["ran"] == "reference"
    assert "no C++ compiler" in facts["absent"]["cpu"]


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("variables", "hide", "reason"),
    [({"CVKERNELS_CUDA": "0"}, (), "CVKERNELS_CUDA=0"), ({"CVKERNELS_CUDA": "auto"}, ("nvcc",), "no nvcc found")],
    ids=["CVKERNELS_CUDA=0", "no nvcc"],
)
def test_cpu_half_alone_is_planned_with_its_reason(tree, variables, hide, reason):
    done = succeeded(run(PLAN, cwd=tree, hide=hide, **variables))
    (line,) = said(done)
    assert line.startswith(CPU_ONLY_LINE + reason)
    sources = json.loads(done.stdout)["sources"]
    assert set(sources) == {"cvkernels._C", "cvkernels._build", "cvkernels._autograd"}
    assert not any(s.endswith(".cu") for s in sources["cvkernels._C"])


def fake_nvcc(folder: Path, release: str) -> str:
    """A folder for the PATH with an nvcc that answers as one of another CUDA would; it cannot compile."""
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        f'#!/bin/sh\ncase "$*" in *--dryrun*) echo "#$ TOP={folder}" ;; *) echo "release {release}, V" ;; esac\n'
    )
    nvcc.chmod(0o755)
    return f"{nvcc.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_an_nvcc_of_another_cuda_is_left_alone(tree, tmp_path):
    path = fake_nvcc(tmp_path / "cuda", "9.2")
    (line,) = said(succeeded(run(PLAN, cwd=tree, PATH=path)))
    wanted = f"nvcc is CUDA 9, torch is CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without"
    assert line.startswith(CPU_ONLY_LINE) and wanted in line
    demanded = run(PLAN, cwd=tree, PATH=path, CVKERNELS_CUDA="1")
    assert demanded.returncode != 0 and f"CVKERNELS_CUDA=1, but {line.removeprefix(CPU_ONLY_LINE)}" in demanded.stderr


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_an_unknown_wish_is_an_error(tree):
    done = run(PLAN, cwd=tree, CVKERNELS_CUDA="yes")
    assert done.returncode != 0 and "CVKERNELS_CUDA must be auto, 0 or 1, got 'yes'" in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None or os.uname().machine != "x86_64", reason="the clones of GCC on x86-64")
@pytest.mark.parametrize("version, level", [(11, "haswell"), (12, "x86-64-v3")])
def test_clones_are_named_as_this_compiler_names_them(version, level):
    """GCC 11 refuses a clone for a level: its processors' names do."""
    command = ["g++", "-E", "-P", "-U__GNUC__", f"-D__GNUC__={version}", "-x", "c++", "-"]
    source = f'#include "{ROOT}/csrc/cpu/clones.h"\nCVK_CLONES void f();'
    done = succeeded(subprocess.run(command, input=source, capture_output=True, text=True))
    assert f'"arch={level}"' in done.stdout


AARCH64 = shutil.which("aarch64-linux-gnu-g++")


@pytest.mark.skipif(AARCH64 is None, reason="no compiler for aarch64 (Debian, Ubuntu: g++-aarch64-linux-gnu)")
def test_the_operators_compile_for_aarch64():
    include = Path(torch.__file__).parent / "include"
    command = [AARCH64, "-std=c++17", "-fsyntax-only", "-fopenmp-simd", f"-I{ROOT / 'csrc'}", f"-I{include}"]
    command += [f"-I{include / 'torch/csrc/api/include'}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    sources = [ROOT / "csrc" / "ops.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
    assert len(sources) > 10
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda s: subprocess.run([*command, s], capture_output=True, text=True), sources):
            succeeded(done)


def test_torch_missing_says_what_to_type(tree, tmp_path):
    borrowed = tmp_path / "site"
    borrowed.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (borrowed / name).symlink_to(SITE / name)
    command = [sys.executable, "-S", "setup.py", "--version"]
    done = subprocess.run(command, cwd=tree, env={"PYTHONPATH": str(borrowed)}, capture_output=True, text=True)
    assert done.returncode != 0
    (line,) = said(done)
    assert "torch is not visible to this build" in line
    assert "pip install --no-build-isolation ." in done.stderr and "Traceback" not in done.stderr


def nvcc_fits() -> bool:
    nvcc = shutil.which("nvcc")
    if nvcc is None or torch.version.cuda is None:
        return False
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    return f"release {torch.version.cuda.split('.')[0]}." in version


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_builds_and_works_without_nvcc(tree, tmp_path, install):
    # unoptimised: a third of the time, and what this environment runs has been compiled the other way; as C++17, which
    # torch 2.11's builds are, and later ones, in C++20, would not notice
    done = succeeded(run(BUILD_WHEEL, tmp_path, cwd=tree, hide=("nvcc",), CVKERNELS_CXXFLAGS="-O0 -std=c++17"))
    assert [line.startswith(CPU_ONLY_LINE) for line in said(done)] == [True], done.stderr
    facts = used(install(tmp_path / done.stdout.split()[-1]), tmp_path)
    assert_right(facts)
    assert facts["ran"] == "cpu" and facts["archs"] == ""
    assert "built for the CPU only" in facts["absent"]["cuda"]


@pytest.mark.skipif(not (COMPILER and nvcc_fits()), reason="no C++ compiler, or no nvcc for this torch's CUDA")
def test_this_environments_library_has_its_architectures_and_loads():
    """The one that was built before the tests: a second build with nvcc would take minutes more."""
    facts = backend.build_facts()
    if not facts.cuda:
        pytest.skip("this environment was built with CVKERNELS_CUDA=0")
    assert backend.compiled
    if not torch.cuda.is_available():
        assert backend.absent("cuda") == "no CUDA device"
    (library,) = (ROOT / "cvkernels").glob("_C*.so")
    named = {f"sm_{arch.removesuffix('+PTX').replace('.', '')}" for arch in facts.archs.split(";")}
    assert architectures(library) == named


def architectures(library: Path) -> set[str]:
    tool = shutil.which("cuobjdump") or next(map(str, SITE.glob("triton/backends/nvidia/bin/cuobjdump")), None)
    if tool is None:
        pytest.skip("built and loaded; no cuobjdump to read the architectures with")
    return set(
        re.findall(r"\bsm_\d+", subprocess.run([tool, "--list-elf", library], capture_output=True, text=True).stdout)
    )
