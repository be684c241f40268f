"""Before torch is imported: what all tests share."""

import os

from hypothesis import settings

# Several processes of tests, each with as many threads as there are cores, would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Properties are tried with the same few examples each time, and with thousands of new ones on demand.
settings.register_profile("quick", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=5000, deadline=None)
settings.load_profile("long" if os.environ.get("LIGHTNING_SOUPS_LONG_TESTS") == "1" else "quick")
