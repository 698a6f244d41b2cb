"""Long trials of what can go wrong, outside CI: `make faults` counts them and keeps the counts."""

import pandas as pd
import pytest

COUNTS = []
STUDY = "long trials on SYNTHETIC knees"


@pytest.fixture(scope="session")
def tally():
    "Note how often something was tried, and how often it ended as it should."

    def note(what: str, tried: int, right: int):
        COUNTS.append({"what": what, "tried": tried, "as it should": right})

    return note


def pytest_addoption(parser):
    parser.addoption("--keep", action="store_true", help="write the counts to figures/")


def pytest_sessionfinish(session, exitstatus):
    if COUNTS:
        print("\n" + pd.DataFrame(COUNTS).to_string(index=False))
    if session.config.getoption("--keep") and COUNTS and not exitstatus:
        from koa_repro.paths import repository
        from koa_repro.results import reader, save_table

        figures, found = repository() / "figures", pd.DataFrame(COUNTS)
        kept = reader(figures)("faults").table  # of trials that were not made this time
        if not kept.empty:
            found = pd.concat([kept[~kept.what.isin(found.what)], found])
        save_table(found.sort_values("what"), "faults", figures, study=STUDY)
