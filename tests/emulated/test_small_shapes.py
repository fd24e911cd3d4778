"""What the sanitizer is given on a GPU, run here: the calls and the comparisons hold before there is one."""

import pytest

from cvkernels import backend
from tests.gpu import small_shapes


@pytest.mark.parametrize("layout", small_shapes.LAYOUTS)
@pytest.mark.parametrize("name", [name for name in small_shapes.CALLS if backend.OPS[name].cuda])
def test_every_kernel_in_every_dtype(name, layout):
    for dtype in backend.OPS[name].cuda:
        if layout != "complex" or dtype in backend.FLOATS:
            small_shapes.check(name, "cuda", dtype, layout, "cpu")
