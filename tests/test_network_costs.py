"""The peak of memory is that of the process asked, and a network is measured in one of its own."""

import subprocess
import sys

import pytest

PEAK = "from koa_repro.tools.network_costs import peak_memory; print(peak_memory())"
FAT = f"""
import subprocess, sys
big = bytearray(700 << 20)
for i in range(0, len(big), 4096): big[i] = 1
subprocess.run([sys.executable, "-c", {PEAK!r}], check=True)
"""


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere a child starts with its parent's peak"
)
def test_peak_memory_is_not_the_parents():
    lean = printed(PEAK)
    assert printed(FAT) == pytest.approx(lean, rel=0.1) and lean < 0.68
