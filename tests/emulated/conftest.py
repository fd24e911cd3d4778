"""These files run in a process of their own, started by `tests/test_emulated.py` with the plugin loaded."""

import sys

collect_ignore_glob = [] if "tests.emulated.plugin" in sys.modules else ["test_*.py"]
