"""What the gate reads and when it complains; the compiling itself is `make gate`."""

import pytest

from tests.gate import ARCHS, cuda_half

REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_75'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 480 bytes cmem[0]
ptxas info    : Compile time = 9.1 ms
ptxas info    : Compiling entry function '_Z3badPf' for 'sm_100a'
ptxas info    : Function properties for _Z3badPf
    24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""


def test_the_report_of_ptxas():
    good, bad = cuda_half.parse(REPORT)
    assert good == cuda_half.Kernel("_Z4goodPf", 40, 0, 0) and good.wrong() == []
    assert bad == cuda_half.Kernel("_Z3badPf", 255, 24, 48)
    assert bad.wrong() == ["stack 24 bytes", "48 bytes spilled"]
    assert cuda_half.parse("nvcc fatal: nothing") == []


def test_the_release_list_is_setups():
    assert ARCHS == (75, 80, 86, 89, 90, 100, 120)


def test_every_rule_of_triton_code():
    pytest.importorskip("triton")
    from tests.gate.triton_half import SHARED, Code

    assert set(SHARED) == set(ARCHS)
    sound = Code(registers=40, stack=0, spills=0, wide=4, narrow=1, shared=0)
    assert sound.wrong(75, wide=4, narrow=1) == []
    assert sound.wrong(75, wide=5, narrow=0) == ["4 wide loads < 5", "1 narrow loads > 0"]
    assert Code(255, 8, 3, 4, 1, SHARED[75] + 1).wrong(75, 4, 1) == [
        "stack 8 bytes", "3 spills", "shared memory 65537 > 65536 bytes",
    ]  # fmt: skip
    assert sound.wrong(75, tensor_cores=True) == [] and sound.wrong(80, tensor_cores=True) == ["no tensor core"]


def test_every_kernel_of_the_rooms_is_compiled():
    pytest.importorskip("triton")
    from tests.gate import cases

    assert cases.kernels() and not cases.missing()
    rooms = {p.parent.name for p in cases.OPS.glob("*/triton_kernels.py")} - {"common"}
    assert set(cases.ROOMS) == rooms
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert all(case.launch or set(case.signature) == set(case.kernel.arg_names) for case in cases.CASES)
