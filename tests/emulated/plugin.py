"""``-p tests.emulated.plugin``: the backend ``cuda`` of this process is the emulated one, and takes CPU tensors.

So the tests that a GPU's kernels are held to run here as they stand: the same forms, layouts, dtypes and edges.
"""

import torch

from . import library

torch.ops.load_library(library.build())
register_fake = torch.library.register_fake


def registered(name: str, *args, **kwargs):
    """A fake of ours is the emulated operator's too."""
    one = register_fake(name, *args, **kwargs)
    if not name.startswith("cvkernels::"):
        return one
    other = register_fake(name.replace("cvkernels", library.NAMESPACE), *args, **kwargs)
    return lambda fake: one(other(fake))


torch.library.register_fake = registered
import cvkernels.functional  # noqa: E402, F401  (every room declares its kernels)
import tests.conftest as suite  # noqa: E402
from cvkernels import backend  # noqa: E402

torch.library.register_fake = register_fake


def emulated(op: str | None = None) -> list[suite.Backend]:
    return [suite.Backend("cuda", "cpu")] if op is None or backend.OPS[op].cuda else []


def why_not(self, name, device_type, dtype):
    """As on a GPU, but for where the tensors are."""
    if name != "cuda":
        return f"only the emulated kernels are run here, not {name}"
    return None if dtype in self.cuda else f"{self.name} has no cuda kernel for {dtype}"


operators, absent = backend.operators, backend.absent
backend.operators = lambda name: getattr(torch.ops, library.NAMESPACE) if name == "cuda" else operators(name)
backend.absent = lambda name: None if name == "cuda" else absent(name)
backend.nodes = lambda: None  # those in C++ call the real operators
backend.Op.why_not = why_not
suite.kernels = suite.all_backends = emulated
