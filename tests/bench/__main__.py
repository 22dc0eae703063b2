"""``python -m tests.bench``: measure, print one table and write it into docs/benchmarks.md."""

from __future__ import annotations

import os

# Before NumPy is imported: its products run on one thread, like everything that they are compared with.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from tests.bench.runner import main

main()
