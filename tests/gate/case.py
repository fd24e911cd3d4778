"""One Triton kernel as one launch compiles it, and the rules its machine code is held to.

A room lists its cases in ``tests/gate/rooms/<op>.py`` as ``CASES``, and calls its launchers there in ``launch(size,
dtype)``. `streaming` makes the cases of a kernel that walks features; anything else is a `Case` of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cvkernels.ops.common.triton_kernels import TILE, WARPS

DTYPES = {"fp32": 4, "fp16": 2, "bf16": 2}  # bytes an element

# A tile of a channel's in each layout, at a size that fills it.
LAYOUTS = {
    "contiguous": {"ROWS": TILE // 256, "COLUMNS": 256, "LAST": False, "PAIRS": False},
    "channels-last": {"ROWS": 2 * TILE // 32, "COLUMNS": 32, "LAST": True, "PAIRS": False},
    "interleaved": {"ROWS": TILE // 256, "COLUMNS": 256, "LAST": False, "PAIRS": True},
}
# What tells: float32 has the most registers, float16 the most elements a load. bfloat16 compiles as float16 does up to
# its conversions (BF16 adds it), and torch has no half-precision complex tensors.
ONE = {"contiguous": ("fp32",)}
BOTH = ONE | {"channels-last": ("fp32",)}
HALVES = {"contiguous": ("fp32", "fp16"), "channels-last": ("fp32",)}
VARIANTS = HALVES | {"interleaved": ("fp32",)}
BF16 = VARIANTS | {"contiguous": ("fp32", "fp16", "bf16")}
# Integers that a feature of round size makes multiples of 16, which a launch tells the compiler; and other integers.
ROUND = ("rows", "columns", "channels", "row", "channel", "part")
COUNTS = ("tiles", "blocks", "programs")


@dataclass(frozen=True)
class Case:
    """One kernel with one set of argument types. No spill, no stack, no more shared memory than the card has."""

    kernel: object
    form: str  # what tells it from the kernel's other cases
    signature: dict  # argument to Triton's type: *fp32, i32, fp32, constexpr
    constexprs: dict
    aligned: tuple = ROUND  # integers that are multiples of 16; pointers are
    wide: int = 0  # 16-byte loads a thread must have at least
    narrow: int | None = None  # other loads it may have at most; None: any
    tensor_cores: bool = False  # must use them, from sm_80 on
    options: dict = field(default_factory=dict)
    launch: Callable | None = None  # calls a launcher, which then binds all that signature, constexprs and options say

    @property
    def name(self) -> str:
        return f"{self.kernel.__name__.removesuffix('_kernel')} ({self.form})"


def streaming(
    kernel, form: str, features: tuple, loaded: float, narrow: int | None = None, others: dict | None = None,
    absent: tuple = (), constants: dict | None = None, layouts: dict = VARIANTS, tiles: dict = LAYOUTS,
    aligned: tuple = ROUND, **options,
) -> list[Case]:  # fmt: skip
    """The cases of a kernel that walks features, one for each layout and dtype: they are loaded 16 bytes at a time.

    Args:
        features: pointers in the feature's dtype.   others: pointers and scalars of one type, by name.
        loaded: complex features that are read, two parts each (a real one counts a half).
        narrow: loads of per-channel or per-sample numbers, at most.
        absent: pointers not given.   constants: constexprs beside those of the tile.
        layouts: names to dtypes.
    """
    cases = []
    for layout, dtypes in layouts.items():
        for dtype in dtypes:
            given = dict.fromkeys(features, f"*{dtype}") | dict.fromkeys((*ROUND, *COUNTS), "i32") | (others or {})
            signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
            constexprs = tiles[layout] | dict.fromkeys(absent) | (constants or {})
            constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
            elements = tiles[layout]["ROWS"] * tiles[layout]["COLUMNS"]
            warps = {"num_warps": elements * WARPS // TILE}
            # of a thread's share of the tiles
            wide = int(loaded * 2 * TILE * DTYPES[dtype]) // (16 * 32 * WARPS)
            variant = ", ".join(filter(None, (form, layout, dtype)))
            cases.append(Case(kernel, variant, signature, constexprs, aligned, wide, narrow, options=warps | options))
    return cases
