"""What every test runs under: no network, one thread per library, since two workers share the cores, and one store of
compiled programs for both workers and the processes that they start."""

import atexit
import gc
import os
import shutil
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("long")  # more inputs where a test asks for the profile's name

os.environ["HF_HUB_OFFLINE"] = "1"  # a model hub that cannot be reached is waited for otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling takes longer here than running; `make test-long` compiles as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Small operations, of which a test compiles hundreds, compile a third faster so; and each in one thread, since two
# workers share the cores.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # set by the first process, inherited by the others
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="promptdyn-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture
def registries(monkeypatch):
    """What a test registers is gone after it."""
    from promptdyn.inference import METHODS  # after the settings above
    from promptdyn.models import MODELS
    from promptdyn.readers import READERS
    from promptdyn.selection import SCORES, STRATEGIES

    for registry in (METHODS, MODELS, READERS, SCORES, STRATEGIES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def pytest_collection_modifyitems(items):
    """The longest tests, examples of whole pages, come first: at the end one process would wait for the other."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


def pytest_collection_finish():
    """What was imported so far stays, and need not be looked through each time a trainer has garbage collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_came_since_stays():
    """So does what other modules have compiled."""
    gc.collect()
    gc.freeze()
