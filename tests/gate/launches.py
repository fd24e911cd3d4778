"""The launchers themselves, with a driver that only names an architecture: what a launch binds is compiled, not run.

A launch fixes more than the table of cases does: sizes of 1 become constants, absent tensors fall away.
"""

import contextlib

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from .cases import batch_norm_relu as kernels

SIZES = ((1, 2, 1, 1, 1), (2, 2, 3, 5, 7), (3, 2, 130))


class NamesAnArchitecture:
    """As much of a driver as compiling asks for."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


@contextlib.contextmanager
def compiling_only(arch: int):
    """Kernels launched inside are compiled for ``arch``; yields the list of their names. The driver stays: Triton has
    no other to go back to where there is no GPU."""
    run, names = JITFunction.run, []

    def warm_up(self, *args, grid, warmup, **kwargs):
        names.append(self.__name__)
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    driver.set_active(NamesAnArchitecture(arch))
    JITFunction.run = warm_up
    try:
        yield names
    finally:
        JITFunction.run = run


def batch_norm_relu(size: tuple, dtype: torch.dtype) -> None:
    z, ones, count = torch.zeros(size, dtype=dtype), torch.ones(size[2]), torch.tensor(1)
    for weight in (None, ones.to(dtype)):
        kept = None if weight is None else z
        for running, residual, training in ((ones, z, True), (None, None, False), (ones, None, False)):
            y, rstd = kernels.batch_norm_relu_forward(z, running, weight, residual, count, training, 0.1, 1e-5, 1.0)
            batch = training or running is None
            kernels.batch_norm_relu_backward(z, y, kept, weight, residual, rstd, batch, 1.0)


def row(arch: int) -> tuple[str, list[str], int]:
    """One line, what is wrong, and how many launches compiled. For a process of its own: it changes Triton."""
    wrong = []
    with compiling_only(arch) as names:
        for size in SIZES:
            for dtype in (torch.float32, torch.float16):
                try:
                    batch_norm_relu(size, dtype)
                except Exception as error:  # whatever the compiler raises, the gate goes on to the next
                    wrong.append(f"a launch of {list(size)} {dtype}, sm_{arch}: {type(error).__name__}: {error}")
    return f"{len(names)} launches of odd sizes compiled for sm_{arch}", wrong, len(names)
