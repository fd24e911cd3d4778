"""The Triton kernels as they are launched: argument types, layouts, and how many of its loads may be narrow."""

from dataclasses import dataclass, field

from cvkernels.ops.batch_norm_relu import triton_kernels as batch_norm_relu
from cvkernels.ops.common.triton_kernels import TILE

MODULES = [batch_norm_relu]
DTYPES = {"fp32": 4, "fp16": 2, "bf16": 2}  # bytes an element
WARPS = batch_norm_relu.OPTIONS["num_warps"]

# A tile in each layout, at a size that fills it.
LAYOUTS = {
    "contiguous": {"ROWS": TILE // 256, "COLUMNS": 256, "LAST": False, "PAIRS": False},
    "channels-last": {"ROWS": TILE // 64, "COLUMNS": 64, "LAST": True, "PAIRS": False},
    "interleaved": {"ROWS": TILE // 256, "COLUMNS": 256, "LAST": False, "PAIRS": True},
}
# Integers that a feature of round size makes multiples of 16, which a launch tells the compiler; and other integers.
ROUND = ("rows", "columns", "channels", "row", "channel", "part")
COUNTS = ("tiles", "blocks", "programs")


@dataclass(frozen=True)
class Case:
    """One kernel in one form. A feature is loaded 16 bytes at a time; what is loaded per channel may be narrow."""

    kernel: object
    form: str
    features: tuple  # pointers in the feature's dtype
    loaded: int  # features that are read, two parts each
    narrow: int  # loads of per-channel numbers, at most
    others: dict = field(default_factory=dict)  # pointers and scalars of one type
    absent: tuple = ()  # pointers not given
    constants: dict = field(default_factory=dict)
    layouts: tuple = tuple(LAYOUTS)

    @property
    def name(self) -> str:
        return self.kernel.__name__.removesuffix("_kernel") + (f" ({self.form})" if self.form else "")

    def signature(self, dtype: str) -> dict:
        given = dict.fromkeys(self.features, f"*{dtype}") | dict.fromkeys((*ROUND, *COUNTS), "i32") | self.others
        return {name: given.get(name, "constexpr") for name in self.kernel.arg_names}

    def constexprs(self, layout: str) -> dict:
        return LAYOUTS[layout] | dict.fromkeys(self.absent) | self.constants

    def wide(self, dtype: str) -> int:
        """How many 16-byte loads a thread needs for its share of the features' tiles."""
        return self.loaded * 2 * TILE * DTYPES[dtype] // (16 * 32 * WARPS)


_scalars = {"per_count": "fp32", "c": "fp32"}
_forward = _scalars | {"momentum": "fp32", "eps": "fp32", "rstd": "*fp32", "running": "*fp32"}
_sums = {"partial": "*fp32", "rstd": "*fp32"}
_one = ("contiguous",)
k = batch_norm_relu
# narrow: 8 loads of partial sums (an unrolled row of 16), then one each of weight, running power, batches, rstd
CASES = [
    Case(k.batch_norm_relu_statistics_kernel, "", ("z",), 1, 0, {"partial": "*fp32"}),
    Case(
        k.batch_norm_relu_forward_kernel, "all", ("z", "residual", "weight", "out"), 2, 11,
        _forward | {"partial": "*fp32", "batches": "*i64"},
    ),
    Case(
        k.batch_norm_relu_forward_kernel, "inference", ("z", "out"), 1, 1, _forward,
        ("residual", "weight", "partial", "batches"), layouts=_one,
    ),
    Case(
        k.batch_norm_relu_backward_sums_kernel, "residual", ("grad", "out", "residual"), 3, 1, _sums | _scalars, ("z",),
    ),
    Case(
        k.batch_norm_relu_backward_sums_kernel, "weight", ("grad", "out", "z"), 3, 1, _sums | _scalars, ("residual",),
        layouts=_one,
    ),
    Case(
        k.batch_norm_relu_backward_kernel, "residual",
        ("grad", "out", "residual", "grad_z", "grad_residual"), 3, 9, _sums | _scalars,
        ("z", "weight", "grad_weight"), {"BATCH": True},
    ),
    Case(
        k.batch_norm_relu_backward_kernel, "all",
        ("grad", "out", "z", "weight", "residual", "grad_z", "grad_residual", "grad_weight"), 3, 10, _sums | _scalars,
        (), {"BATCH": True}, layouts=_one,
    ),
    Case(
        k.batch_norm_relu_backward_kernel, "frozen", ("grad", "out", "grad_z"), 2, 1, _scalars | {"rstd": "*fp32"},
        ("z", "weight", "residual", "partial", "grad_residual", "grad_weight"), {"BATCH": False}, layouts=_one,
    ),
]  # fmt: skip


def missing() -> set[str]:
    """Kernels of the rooms that no case compiles."""
    kernels = {name for module in MODULES for name in vars(module) if name.endswith("_kernel")}
    return kernels - {case.kernel.__name__ for case in CASES}
