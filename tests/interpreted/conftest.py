"""Triton must be told to interpret before it is imported, so these files run in a process of their own.

`tests/test_interpreted.py` starts it; or by hand: ``TRITON_INTERPRET=1 python -m pytest tests/interpreted``.
"""

import pytest

from cvkernels.backend import interpreting

if interpreting():
    from tests.watch import patch_language_once

    patch_language_once()
collect_ignore_glob = [] if interpreting() else ["test_*.py"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch, request):
    """Odd little sizes then take several programs, several tiles a program and several blocks of channels."""
    if "full_tiles" not in request.keywords:
        from cvkernels.ops.common import triton_kernels as tiles

        for name, value in {"TILE": 64, "CHANNELS": 4, "MULTIPROCESSORS": 1}.items():
            monkeypatch.setattr(tiles, name, value)
