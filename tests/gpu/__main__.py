"""`make gpu`, or `python -m tests.gpu`: build, tests, sanitizer, gate and benchmarks on a machine with a GPU.

No network is needed and no git folder (COMMIT says which commit this is). No command runs longer than 8 minutes;
a repeated call goes on where the last one stopped, and ``--steps`` runs the named ones again.
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


def arguments(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps",
        help="comma-separated, by name or family: build,backends,tests,large,sanitizer,gate,loss-curve,benchmarks",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--limit", type=int, default=plan.LIMIT, help=f"seconds a command may take ({plan.LIMIT})")
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
    """What the machine is; asked in a process of its own, so that this one never holds the GPU."""
    code = (
        "import json, torch\n"
        "gpu = torch.cuda.is_available()\n"
        "try:\n    import triton; t = triton.__version__\nexcept ImportError:\n    t = None\n"
        "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'triton': t,\n"
        "    'gpu': torch.cuda.get_device_name() if gpu else None,\n"
        "    'capability': list(torch.cuda.get_device_capability()) if gpu else None}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        found = {"torch": None, "cuda": None, "triton": None, "gpu": None, "capability": None}
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "sanitizer": plan.sanitizer(), **found}


def benchmarked() -> tuple:
    """The operations that `python -m benchmarks` knows, without importing what it imports."""
    return tuple(sorted(p.stem.removeprefix("bench_") for p in (plan.ROOT / "benchmarks").glob("bench_*.py")))


def run(step: plan.Step, limit: float) -> tuple[int | None, str]:
    """(exit code, or None when it was stopped for its time; its output)."""
    began = subprocess.Popen(
        step.command, cwd=plan.ROOT, env={**os.environ, "COMMIT": commit(), **step.env}, text=True, errors="replace",
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
    ran = []
    for step in wanted:
        if not options.steps and book.done(step.name):
            print(f"{step.name:<28} passed before at this commit; --steps {step.name} repeats it")
            continue
        began = time.monotonic()
        if step.left_out:
            status, said, output = "left out", step.left_out, ""
        else:
            print(f"{step.name:<28} runs ...", flush=True)
            code, output = run(step, options.limit)
            status, said = results.verdict(step.name, code, output)
        book.take_rows(out / plan.SCRATCH)
        book.record(step, status, said, time.monotonic() - began, output)
        ran.append(status)
        print(f"{step.name:<28} {status:<10} {said}", flush=True)
        if step.name == "build" and status != "passed":
            print("nothing to test: the build did not pass, see its log")
            break
    print(f"\n{book.table()}")
    bad = sum(status in ("failed", "timed out") for status in ran)
    print(f"gpu: {ran.count('passed')} passed, {bad} failed, {ran.count('left out')} left out")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
