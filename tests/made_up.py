"""Runs that were never made, with predictions whose accuracy is known; pictures of no knee."""

import io
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from koa_repro.radiographs import TEMPLATE
from koa_repro.results import Entry, entries

N = 200  # knees of a split, two a participant


def said(file, participant, label, p1, side="R", split="test") -> pd.DataFrame:
    "Predictions as a run keeps them."
    facts = dict(side=side, kl=2 * label, label=label, split=split, p0=1 - p1, p1=p1)
    return pd.DataFrame(dict(file=file, participant=participant, **facts))


def run(val: float, test: float, seed: int = 0) -> SimpleNamespace:
    "A made-up run with these accuracies, the errors drawn with the seed."
    rng, parts = np.random.default_rng(seed), []
    for split, share in (("val", val), ("test", test)):
        right = rng.permutation(N) < round(share * N)
        label = np.arange(N) // 2 % 2
        p1 = np.where(right == (label == 1), 0.8, 0.2)
        file = [f"{split}{i}" for i in range(N)]
        participant = [f"{split}{i // 2}" for i in range(N)]
        parts.append(said(file, participant, label, p1, side="L", split=split))
    return SimpleNamespace(
        predictions=lambda weights="reported": pd.concat(parts, ignore_index=True)
    )


@dataclass
class Made:
    "A run that classifies a given share of the test knees correctly; the seed says which."

    right: float
    seed: int = 0

    def predictions(self, weights="reported"):
        label = np.arange(2 * N) % 2
        hit = np.random.default_rng(self.seed).permutation(2 * N) < round(2 * N * self.right)
        p1 = np.where(hit == (label == 1), 0.9, 0.1)
        file = [f"{i:03d}" for i in range(2 * N)]
        return said(file, np.arange(2 * N).astype(str), label, p1)


def entry_of(name: str) -> Entry:
    "A table or figure of the registry."
    return next(e for e in entries() if e.name == name)


def picture(seed=0, edge=224, noise=8):
    "A synthetic picture with a knee's coarse brightness, uint8."
    smooth = Image.fromarray((128 + 5 * TEMPLATE).astype(np.uint8))
    smooth = np.asarray(smooth.resize((edge, edge), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed).normal(0, noise, (edge, edge))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def dataset(stored, kind="MONOCHROME2", bits=12, compress=None, **tags) -> FileDataset:
    "A DICOM file of stored values; tags by their names."
    file = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    file.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    file.Rows, file.Columns = stored.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, kind
    file.BitsAllocated, file.BitsStored, file.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    file.PixelRepresentation = signed = tags.get("PixelRepresentation", 0)
    file.PixelData = stored.astype("u1" if bits == 8 else "<i2" if signed else "<u2").tobytes()
    for tag, value in tags.items():
        setattr(file, tag, value)
    if compress:
        file.compress(compress)
    return file


def written(file) -> bytes:
    "The bytes of a DICOM file."
    file.save_as(buffer := io.BytesIO())
    return buffer.getvalue()


def dicom(path, stored, **more):
    "A DICOM file of stored values; more as in `dataset`."
    path.write_bytes(written(dataset(stored, **more)))
