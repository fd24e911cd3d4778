"""`make gpu`, or `python -m tests.gpu`: build, tests, sanitizer, gate and benchmarks on a machine with a GPU.

No network is needed and no git folder (COMMIT says which commit this is). No step runs longer than 8 minutes, nor the
whole longer than ``--total``; a repeated call goes on where the last one stopped, and ``--steps`` runs the named ones
again. What a claim rests on comes first; a step that ran over its time is tried once more at the end.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import plan, results

LEAST = 10  # seconds: less is no time for a step


def arguments(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps",
        help="comma-separated, by name or family: build,backends,tests,large,sanitizer,gate,loss-curve,benchmarks",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--limit", type=int, default=plan.LIMIT, help=f"seconds a command may take ({plan.LIMIT})")
    parser.add_argument("--total", type=int, help="seconds all of it may take (as long as it takes)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what is missing, run nothing")
    return parser.parse_args(argv)


def commit() -> str:
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    command = ["git", "-C", str(plan.ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts() -> dict:
    """What the machine is and has; asked in a process of its own, so that this one never holds the GPU."""
    code = (
        "import json, torch\n"
        "gpu = torch.cuda.is_available()\n"
        "from cvkernels import backend\n"
        "try:\n    import triton; t = triton.__version__\nexcept ImportError:\n    t = None\n"
        "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'triton': t,\n"
        "    'backends': [name for name in ('triton', 'cuda') if not backend.absent(name)],\n"
        "    'gpu': torch.cuda.get_device_name() if gpu else None,\n"
        "    'capability': list(torch.cuda.get_device_capability()) if gpu else None}))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=plan.ROOT, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        found = {"torch": None, "cuda": None, "triton": None, "backends": [], "gpu": None, "capability": None}
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "sanitizer": plan.sanitizer(), **found}


def benchmarked() -> tuple:
    """The operations that `python -m benchmarks` knows, without importing what it imports."""
    return tuple(sorted(p.stem.removeprefix("bench_") for p in (plan.ROOT / "benchmarks").glob("bench_*.py")))


def surroundings() -> dict:
    """What every step's process is given: nothing need be installed for it, and what Triton compiles is kept."""
    path = os.pathsep.join(filter(None, (str(plan.ROOT), os.environ.get("PYTHONPATH"))))
    cache = os.environ.get("TRITON_CACHE_DIR", str(plan.TRITON_CACHE))
    return {"COMMIT": commit(), "PYTHONPATH": path, "TRITON_CACHE_DIR": cache}


def run(step: plan.Step, limit: float) -> tuple[int | None, str]:
    """(exit code, or None when it was stopped for its time; its output)."""
    began = subprocess.Popen(
        step.command, cwd=plan.ROOT, env={**os.environ, **surroundings(), **step.env}, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = began.communicate(timeout=limit)
        return began.returncode, output
    except subprocess.TimeoutExpired:
        # the whole group: a compiler or a worker it started would live on
        os.killpg(began.pid, signal.SIGKILL)
        return None, began.communicate()[0]
    except BaseException:
        os.killpg(began.pid, signal.SIGKILL)
        raise


def main(argv=None) -> int:
    options = arguments(argv)
    out = options.out.resolve()
    everything = plan.steps(out, benchmarked())
    try:
        wanted = plan.chosen(everything, options.steps.split(",")) if options.steps else everything
    except ValueError as error:
        print(error)
        return 2
    missing, lacking = plan.absent(plan.REQUIRED), plan.absent(plan.OPTIONAL)
    if lacking:
        print(f"not here: {plan.wheels(lacking)}; what needs them is left out (bring their wheels to have it)")
    if options.dry_run:
        print(f"needed and not here: {plan.wheels(missing) or 'nothing'}")
        print(*(step.line() for step in wanted), sep="\n")
        return 0
    if missing:
        print(f"needed and not here; bring these wheels and install them first: {plan.wheels(missing)}")
        return 2
    here = facts()
    if here["gpu"] is None:
        print(f"torch {here['torch']} (CUDA {here['cuda']}) sees no GPU here: this job needs one")
        return 2
    book = results.Results(out, here["gpu"], commit(), here)
    print(f"{here['gpu']}, commit {commit()}, torch {here['torch']}, Triton {here['triton']}; results in {out}")
    job = Job(options, out, book, here)
    job.through([step.name for step in wanted])
    print(f"\n{book.table()}")
    return job.close()


class Job:
    """One call of it: what has run, and the time that is left."""

    def __init__(self, options, out: Path, book: results.Results, here: dict):
        self.options, self.out, self.book, self.here = options, out, book, here
        self.began, self.ran = time.monotonic(), {}

    def left(self) -> float:
        """Seconds the next step may take."""
        total = float("inf") if self.options.total is None else self.options.total
        return min(self.options.limit, total - (time.monotonic() - self.began))

    def through(self, names: list[str]) -> None:
        steps = self.steps()
        for name in names:
            if not self.options.steps and self.book.done(name):
                print(f"{name:<34} passed before at this commit; --steps {name} repeats it")
            elif self.take(steps[name]) and name == "build":
                self.here = facts()  # with what was built
                steps = self.steps()
        # what it compiled is kept, so it has less to do now
        for name in [name for name, status in self.ran.items() if status == "timed out"]:
            self.take(steps[name])

    def steps(self) -> dict[str, plan.Step]:
        return {step.name: step for step in plan.steps(self.out, benchmarked(), self.here)}

    def take(self, step: plan.Step) -> bool:
        """Run it and write down how it went; False where no time is left for it."""
        began, limit = time.monotonic(), self.left()
        if step.left_out:
            status, said, output = "left out", step.left_out, ""
        elif limit < LEAST:
            print(f"{step.name:<34} not begun: no time left; call again to go on")
            self.ran.setdefault(step.name, "not begun")
            return False
        else:
            print(f"{step.name:<34} runs ...", flush=True)
            code, output = run(step, limit)
            status, said = results.verdict(step.name, code, output)
        self.book.take_rows(self.out / plan.SCRATCH)
        self.book.record(step, status, said, time.monotonic() - began, output)
        self.ran[step.name] = status
        print(f"{step.name:<34} {status:<10} {said}", flush=True)
        return True

    def close(self) -> int:
        how = list(self.ran.values())
        bad = how.count("failed") + how.count("timed out")
        late = f", {how.count('not begun')} not begun" if "not begun" in how else ""
        print(f"gpu: {how.count('passed')} passed, {bad} failed, {how.count('left out')} left out{late}")
        return 1 if bad or late else 0


if __name__ == "__main__":
    sys.exit(main())
