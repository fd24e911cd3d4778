"""The launchers themselves, with a driver that only names an architecture: what a launch binds is compiled, not run.

A launch fixes more than the table of cases does: sizes of 1 become constants, absent tensors fall away.
"""

import contextlib
import itertools

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

# planar sizes, and the dtype of each
SIZES = {(1, 2, 1, 1, 1): torch.float32, (2, 2, 3, 5, 7): torch.float16, (3, 2, 130): torch.float32}


class NamesAnArchitecture:
    """As much of a driver as compiling asks for."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.arch  # what Triton has compiled is kept by device

    def get_current_stream(self, device=None):
        return 0


@contextlib.contextmanager
def compiling_only(arch: int):
    """Kernels launched inside are compiled for ``arch``; yields the list of their names, each with what was compiled.
    The driver stays: Triton has no other to go back to where there is no GPU."""
    run, found = JITFunction.run, []

    def warm_up(self, *args, grid, warmup, **kwargs):
        found.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))
        return found[-1][1]

    driver.set_active(NamesAnArchitecture(arch))
    JITFunction.run = warm_up
    try:
        yield found
    finally:
        JITFunction.run = run


def row(arch: int) -> tuple[str, list[str], int]:
    """One line, what is wrong, and how many launches compiled. For a process of its own: it changes Triton."""
    from .cases import ROOMS

    wrong = []
    with compiling_only(arch) as found:
        for name, (size, dtype) in itertools.product(ROOMS, SIZES.items()):
            try:
                ROOMS[name].launch(size, dtype)
            except Exception as error:  # whatever the compiler raises, the gate goes on to the next
                wrong.append(f"{name}, a launch of {list(size)} {dtype}, sm_{arch}: {type(error).__name__}: {error}")
    return f"{len(found)} launches of odd sizes compiled for sm_{arch}", wrong, len(found)
