"""Triton must be told to interpret before it is imported, so these files run in a process of their own.

`tests/test_interpreted.py` starts it; or by hand: ``TRITON_INTERPRET=1 python -m pytest tests/interpreted``.
"""

from cvkernels.backend import interpreting

collect_ignore_glob = [] if interpreting() else ["test_*.py"]
