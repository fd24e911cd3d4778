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


SASS = """
\t.section\t.text.{first},"ax",@progbits
.text.{first}:
        /*0010*/  LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/  LDG.E R8, [R2.64] ;
        /*0030*/  STG.E.128 [R2.64], R4 ;
.text.{second}:
        /*0010*/  LDG.E.128 R4, [R2.64] ;
"""


def named(kernel, form="NS_4FormIfLi4ELb0EEE"):
    return f"_ZN3cvk21_GLOBAL__N__78a73e9b_{len(kernel)}{kernel}I{form}EvPKNT_4typeE"


def test_wide_loads_and_stores():
    first, second = named("unrotate_forward_kernel"), named("rotate_forward_kernel")
    assert cuda_half.wide(SASS.format(first=first, second=second)) == {first: (1, 1), second: (1, 0)}
    kernel = cuda_half.Kernel(first, wide=(1, 1))
    assert kernel.wrong() == ["1 wide loads < 2"]
    assert cuda_half.Kernel(first, wide=(2, 1)).wrong() == []
    one_by_one = named("unrotate_forward_kernel", "NS_4FormIfLi1ELb0EEE")
    assert cuda_half.Kernel(one_by_one, wide=(0, 0)).wrong() == []
    half = named("rotate_forward_kernel", "NS_4FormIN3c104HalfELi8ELb0EEE")
    assert cuda_half.Kernel(half, wide=(2, 0)).wrong() == ["0 wide stores < 2"]
    unknown = cuda_half.Kernel(named("new_kernel"), wide=(9, 9))
    assert unknown.wrong() == ["new reads packs and is not in STREAMS of tests/gate/cuda_half.py"]


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
