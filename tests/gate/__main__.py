"""`make gate`, or `python -m tests.gate`: no kernel spills, none has a stack, features are loaded 16 bytes at a time.

Everything is compiled for every architecture of the release list, and nothing is run: no GPU is needed. Without Triton
or without nvcc that half says so and is not checked.
"""

import importlib.util
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from . import ARCHS, cuda_half

JOBS = min(os.cpu_count() or 1, 8)


class Tally:
    def __init__(self):
        self.passed, self.wrong, self.unchecked = 0, [], []

    def add(self, wrong: list[str], checks: int = 1) -> None:
        self.passed += max(0, checks - len(wrong))
        self.wrong += wrong

    def close(self, seconds: float) -> str:
        left_out = "".join(f"; {what}: not checked" for what in self.unchecked)
        return f"gate: {self.passed} passed, {len(self.wrong)} failed in {seconds:.0f} s{left_out}"


def check_triton(tally: Tally) -> None:
    if importlib.util.find_spec("triton") is None:
        print("no Triton: not checked")
        tally.unchecked.append("no Triton")
        return
    from . import cases, launches, triton_half

    print(triton_half.HEADING, flush=True)
    # processes: a compiler holds the interpreter's lock; spawned: Triton does not like to be forked
    spawn = get_context("spawn")
    # the launches in a process of their own: they change Triton's driver
    with ProcessPoolExecutor(1, mp_context=spawn) as apart, ProcessPoolExecutor(JOBS, mp_context=spawn) as pool:
        launched = apart.submit(launches.row, ARCHS[0])
        for text, wrong in pool.map(triton_half.row, range(len(cases.CASES))):
            print(text, flush=True)
            tally.add(wrong, len(ARCHS))
        text, wrong, count = launched.result()
        print(text, flush=True)
        tally.add(wrong, count)
    tally.add([f"{name} is in no case of tests/gate/rooms" for name in sorted(cases.missing())])
    caught(tally, triton_half.self_check())


def check_cuda(tally: Tally) -> None:
    compiler = cuda_half.nvcc()
    if compiler is None:
        print("no nvcc: not checked")
        tally.unchecked.append("no nvcc")
        return
    for arch in ARCHS:
        if not cuda_half.knows(compiler, arch):
            print(f"this nvcc does not build for sm_{arch}: not checked")
            tally.unchecked.append(f"sm_{arch}")
    if cuda_half.disassembler(compiler) is None:
        print("no nvdisasm, in the toolkit or with Triton: how wide the CUDA kernels' loads are is not checked")
        tally.unchecked.append("no nvdisasm")
    print(f"\n{cuda_half.HEADING}", flush=True)
    work = [(s, a) for s in cuda_half.SOURCES for a in ARCHS if f"sm_{a}" not in tally.unchecked]
    with ThreadPoolExecutor(JOBS) as pool:
        for text, wrong, kernels in pool.map(lambda pair: cuda_half.row(compiler, *pair), work):
            print(text, flush=True)
            tally.add(wrong, kernels)
    caught(tally, cuda_half.self_check(compiler))


def caught(tally: Tally, checks: list[tuple[str, bool]]) -> None:
    """A gate that lets the deliberately bad through is no gate."""
    for what, seen in checks:
        print(f"{'caught' if seen else 'MISSED'} on purpose: {what}", flush=True)
        tally.add([] if seen else [f"the gate does not catch {what}"])


def main() -> int:
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("the gate compiles, and a process in which Triton interprets cannot: unset TRITON_INTERPRET")
        return 2
    began, tally = time.monotonic(), Tally()
    print(f"compiled only, for {', '.join(f'sm_{a}' for a in ARCHS)}; nothing here was run on a GPU\n")
    check_triton(tally)
    check_cuda(tally)
    for text in tally.wrong:
        print(f"FAILED {text}")
    print(tally.close(time.monotonic() - began))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
