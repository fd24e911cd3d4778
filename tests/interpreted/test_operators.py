"""What holds for every room's Triton operators: their schemas, their fakes, and runs that repeat themselves."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from cvkernels import backend, use_backend
from tests.gpu import small_shapes
from tests.ops.suite import Recorder

ROOMS = sorted(p.parent.name for p in Path(backend.__file__).parent.glob("ops/*/triton_kernels.py"))
ROOMS.remove("common")
ROOMS.remove("conv2d")  # its operators are Triton's alone: test_conv2d.py
LAYOUTS = small_shapes.LAYOUTS


def schemas(room):
    return importlib.import_module(f"cvkernels.ops.{room}.triton_kernels").SCHEMAS


def test_every_room_declares_its_dtypes():
    assert {name for name, op in backend.OPS.items() if op.triton} - {"conv2d"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_the_operators_are_those_of_the_compiled_library(room):
    text = (Path(__file__).parents[2] / "csrc" / "ops.cpp").read_text()
    declared = re.sub(r'"\s*"', "", text)  # a literal's pieces, wherever a formatter breaks them
    assert schemas(room)
    for launch, schema in schemas(room).items():
        assert f'"{launch.__name__}{schema}")' in declared


def recorded(room, layout, dtype=torch.float32):
    """Every operator that the room's small shapes call, with its arguments, and what came out of the whole."""
    z = torch.randn(3, 2, small_shapes.CHANNELS, 4, 5).to(dtype).requires_grad_()
    with use_backend("triton"), Recorder() as seen:
        out = small_shapes.outputs(room, LAYOUTS[layout](z))
    return seen.calls, [*out, z.grad]


# channels-last is where a fake's strides can go wrong; interleaved where its size is another too
@pytest.mark.parametrize(
    ("room", "layout"), [*((r, "channels-last") for r in ROOMS), ("magnitude_max_pool2d", "complex")]
)
def test_schemas_and_fakes(room, layout):
    calls, _ = recorded(room, layout)
    assert {op.name().split(".")[0] for op, _, _ in calls} == {
        f"cvkernels_triton::{launch.__name__}" for launch in schemas(room)
    }
    for op, args, kwargs in calls:
        torch.library.opcheck(op, args, kwargs, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_run_repeats_itself(room):
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(recorded(room, "contiguous")[1])
    assert all(map(torch.equal, *runs))


def test_small_shapes_reach_every_room():
    assert set(ROOMS) <= set(small_shapes.CALLS)
