"""Before torch is imported: what all tests share."""

import os

# Several processes of tests, each with as many threads as there are cores, would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
