import os
import pathlib
import tempfile

import pytest

# A key of each process: what is finished is judged by such files, and another worker may make one.
os.environ["KOA_KEY"] = str(pathlib.Path(tempfile.mkdtemp(prefix="koa-key")) / "key")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


@pytest.fixture(scope="session")
def knees_folder():
    "The real knees, where they are; tests that need them skip elsewhere."
    from koa_repro.data import real_knees

    folder = real_knees()
    if folder is None:
        pytest.skip("the public knees are not here: set KOA_KNEES to their folder")
    return pathlib.Path(folder)


def pytest_collection_modifyitems(items):
    "The longest file first, so that the other worker has something to do beside it."
    items.sort(key=lambda item: item.path.name != "test_reproduce.py")
