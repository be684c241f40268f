"""Before torch is imported: what all tests share."""

import os

from hypothesis import settings

# Several processes of tests, each with as many threads as there are cores, would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says nothing on a machine that does other things, too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
