"""What every test runs under: no network, and one thread per library, since two workers share the cores."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a model hub that cannot be reached is waited for otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")
