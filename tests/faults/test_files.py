"""Flipped bits in every file of a run, full disks at every write, hostile radiographs."""

import os
import random
import resource
import shutil
import subprocess

import numpy as np
import pytest
import test_radiographs as radiographs
import test_store

from koa_repro.executors import ensure
from koa_repro.paths import DiskFull
from koa_repro.radiographs import UnreadableRadiograph, decode
from koa_repro.results import save_table
from koa_repro.runs import (
    NEEDED,
    SUMS,
    WEIGHTS,
    DamagedRun,
    find,
    make_run,
    partial_of,
)

knees, spec = test_store.knees, test_store.spec  # fixtures: the same small run


def flipped(data: bytes, rng) -> bytes:
    data = bytearray(data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("name", [*NEEDED, SUMS, WEIGHTS])
def test_a_flipped_bit_in_a_finished_run(knees, spec, tmp_path, name, tally):
    run, rng = make_run(spec, knees, tmp_path, progress=False), random.Random(name)
    good, noticed, tried = (run.path / name).read_bytes(), 0, 300
    for _ in range(tried):
        (run.path / name).write_bytes(flipped(good, rng))
        try:
            found = find(spec, tmp_path)
            found.history, found.provenance, found.everything, found.read(WEIGHTS)
        except DamagedRun:
            noticed += 1
    tally(f"one flipped bit in {name}: noticed", tried, noticed)
    assert noticed == tried


def test_a_flipped_bit_in_a_checkpoint(knees, spec, tmp_path, tally):
    make_run(spec, knees, tmp_path, progress=False, stop_after=1)
    file, rng = partial_of(spec, tmp_path) / "checkpoint.pt", random.Random(0)
    good, noticed, tried = file.read_bytes(), 0, 300
    for _ in range(tried):
        file.write_bytes(flipped(good, rng))
        try:
            make_run(spec, knees, tmp_path, progress=False, stop_after=1)
        except ValueError as e:
            noticed += "is damaged" in str(e)
    tally("one flipped bit in checkpoint.pt: noticed", tried, noticed)
    assert noticed == tried


@pytest.fixture
def small_disk(tmp_path):
    "Mounts a disk of so many KiB; unmounted at the end."
    if os.geteuid():
        pytest.skip("a small disk is mounted as root")
    disks = []

    def mount(size):
        folder = tmp_path / f"disk{len(disks)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        disks.append(folder)
        return folder

    yield mount
    for folder in disks:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_at_every_write_of_a_run(knees, spec, tmp_path, small_disk, tally):
    """Disks from almost nothing to almost enough: the reason is told, no half file stays, and with
    more room the same call ends in the predictions of an undisturbed run."""
    whole = make_run(spec, knees, tmp_path / "whole", progress=False)
    used = sum(p.stat().st_size for p in whole.path.iterdir())
    right, sizes = 0, np.linspace(16, 2.2 * used / 1024, 24).astype(int)
    for size in sizes:
        disk = small_disk(size)
        try:
            run = ensure([spec], disk, knees, progress=False)[0]
        except (RuntimeError, OSError) as e:
            told = "DiskFull: " in str(e) or isinstance(e, DiskFull)
            halves = [p for p in disk.rglob("*") if ".new" in p.name]
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            run = ensure([spec], disk, knees, progress=False)[0] if told and not halves else None
        right += run is not None and run.everything.equals(whole.everything)
    tally("a run on a full disk: told, and gone on with once there is room", len(sizes), right)
    assert right == len(sizes)


def test_a_full_disk_while_a_table_is_kept(small_disk, tally):
    import pandas as pd

    right, sizes = 0, range(40, 440, 20)
    for size in sizes:
        disk = small_disk(size)
        save_table(pd.DataFrame(dict(x=range(10))), "t", disk, study="before")
        before = {p.name: p.read_bytes() for p in disk.iterdir()}
        try:
            save_table(pd.DataFrame(dict(x=np.random.rand(40_000))), "t", disk, study="after")
        except DiskFull:
            right += before == {p.name: p.read_bytes() for p in disk.iterdir()}
    tally("a table that does not fit: told, the old one stands", len(sizes), right)
    assert right == len(sizes)


def test_hostile_radiographs(tally):
    "Bombs, formats that were never promised, files cut short and spoilt: a sentence, in 3 GB."
    resource.setrlimit(resource.RLIMIT_AS, (radiographs_memory(), resource.RLIM_INFINITY))
    try:
        files = [*dict(radiographs.bombs()).values(), *radiographs.malformed()]
        rng = random.Random(0)
        files += [flipped(data, rng) for data in files[-200:]]
        right = 0
        for data in files:
            try:
                image, *_ = decode(data)
                right += image.ndim == 2
            except UnreadableRadiograph as e:
                right += "\n" not in str(e)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    tally("hostile radiographs: refused in a sentence, or read", len(files), right)
    assert right == len(files)


def radiographs_memory() -> int:
    "What this process has now, and 3 GB more."
    pages = int(open("/proc/self/statm").read().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE") + (3 << 30)


def test_what_was_cut_off_beside_a_run_is_no_run(knees, spec, tmp_path):
    shutil.copytree(
        make_run(spec, knees, tmp_path, progress=False).path, tmp_path / f".{spec.id}.x.new"
    )
    assert find(spec, tmp_path)
