"""One file: what a knee is read as, and what is refused. Pictures are made here."""

import base64
import hashlib
import io
import os
import resource
import struct
import subprocess
import sys
import warnings
import zlib

import made_up
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import picture, written
from PIL import Image, ImageDraw
from pydicom import uid
from pydicom.dataset import Dataset

from koa_repro.data import example_knees
from koa_repro.pictures import LARGEST, LARGEST_FILE, LEVELS
from koa_repro.privacy import published_knees
from koa_repro.radiographs import (
    UnreadableRadiograph,
    as_knee,
    decode,
    file_bytes,
    polarity,
    read_radiograph,
)
from koa_repro.recognition import A_KNEE, LIMITS, SURE, measures

KNEE = picture()
TWELVE = np.round(KNEE / 255 * 4095).astype(int)


def dataset(stored=TWELVE, *args, **more):
    return made_up.dataset(stored, *args, **more)


def grey(*args, **tags):
    return decode(written(dataset(*args, **tags)))[0]


def png(image, **how) -> bytes:
    Image.fromarray(image).save(buffer := io.BytesIO(), **{"format": "PNG", **how})
    return buffer.getvalue()


def off(image, knee=KNEE) -> float:
    "Furthest from the knee, in grey levels of 255."
    image = image / 255 if image.dtype == np.uint8 else image
    return np.abs(image * 255 - knee).max()


def refused(data, roi=True):
    with pytest.raises(UnreadableRadiograph) as e:
        decode(data, roi)
    assert 10 < len(str(e.value)) < 250 and "\n" not in str(e.value)
    return str(e.value)


# --- picture files


def test_picture_formats_agree():
    deep = Image.fromarray(TWELVE.astype(np.uint16))
    deep.save(tiff := io.BytesIO(), format="TIFF")
    assert off(decode(tiff.getvalue())[0]) <= 0.5  # 12 bits in 16 are not nearly black
    assert off(decode(png(KNEE))[0]) == 0
    assert off(decode(png(KNEE.astype(np.uint16) * 257))[0]) < 0.01
    for mode in ("RGB", "RGBA", "LA", "P"):
        Image.fromarray(KNEE).convert(mode).save(buffer := io.BytesIO(), format="PNG")
        assert off(decode(buffer.getvalue())[0]) == 0, mode
    assert off(decode(png((KNEE / 255).astype(np.float32), format="TIFF"))[0]) < 0.01
    lossy = decode(png(picture(noise=2), format="JPEG", quality=95))[0]
    assert np.abs(lossy.astype(int) - picture(noise=2)).mean() < 2


@pytest.mark.parametrize("depth", (4095, 65535))
def test_a_tiff_may_say_that_zero_is_white(depth):
    stored = np.round(KNEE / 255 * depth).astype(np.uint16)
    for kind, values in ((0, depth - stored), (1, stored)):
        Image.fromarray(values).save(buffer := io.BytesIO(), format="TIFF", tiffinfo={262: kind})
        assert off(decode(buffer.getvalue())[0]) <= 3  # the brightest of 12 bits is not 4,095


def test_what_is_transparent_is_black():
    alpha = np.full_like(KNEE, 255)
    alpha[:, :40] = 0
    rgb = np.dstack([KNEE] * 3)
    rgb[:, :40] = 255
    read = decode(png(np.dstack([rgb, alpha])))[0]
    assert not read[:, :40].any() and (read[:, 40:] == KNEE[:, 40:]).all()


def part(kind, data) -> bytes:
    "A chunk of a PNG."
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bit_colour(values) -> bytes:
    rows = b"".join(b"\0" + np.repeat(r[:, None], 3, 1).astype(">u2").tobytes() for r in values)
    head = struct.pack(">IIBBBBB", *values.shape[::-1], 16, 2, 0, 0, 0)
    parts = part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_colour_is_not_read_nearly_black():
    refused(png_of_16_bit_colour(TWELVE))
    assert off(decode(png_of_16_bit_colour(KNEE.astype(int) * 257))[0]) == 0


# --- DICOM: grey


def test_depths_signs_and_kinds_agree():
    for bits in (8, 10, 12, 14, 16):
        assert off(grey(np.round(KNEE / 255 * (2**bits - 1)), bits=bits)) < 0.6, bits
    assert off(grey(bits=16)) < 0.6  # 12 bits in a file that declares 16
    assert off(grey(4095 - TWELVE, "MONOCHROME1")) < 0.6
    assert off(grey(4095 - TWELVE, "MONOCHROME1", PresentationLUTShape="INVERSE")) < 0.6
    assert off(grey(4095 - TWELVE, PresentationLUTShape="INVERSE")) < 0.6
    assert off(grey(PresentationLUTShape="IDENTITY")) < 0.6
    assert off(grey(4095 - TWELVE, RescaleSlope=-1, RescaleIntercept=4095)) < 0.6
    for bits in (12, 16):
        assert off(grey(TWELVE - 2048, bits=bits, PixelRepresentation=1)) < 0.6
    upper = dataset(TWELVE << 4, bits=16, BitsStored=12, HighBit=15)  # the older way
    assert off(decode(written(upper))[0]) < 0.6


@pytest.mark.parametrize("shape", ("LINEAR", "LINEAR_EXACT", None))
def test_a_window_is_the_scale(shape):
    values = 500 + np.round(KNEE / 255 * 600).astype(int)
    half = 0 if shape == "LINEAR_EXACT" else 0.5
    tags = dict(WindowCenter=[800 + half, 3000], WindowWidth=[600 + 2 * half, 10])
    tags |= dict(VOILUTFunction=shape) if shape else {}
    assert off(grey(values, bits=14, **tags)) < 0.3
    assert off(grey(600 + 500 - (values - 500), "MONOCHROME1", bits=14, **tags)) < 0.3
    slope = dict(RescaleSlope=2, RescaleIntercept=-7)
    tags["WindowCenter"], tags["WindowWidth"] = 1593 + 2 * half, 1200 + 2 * half
    assert off(grey(values, bits=14, **slope, **tags)) < 1
    narrow = grey(values, bits=14, WindowCenter=800, WindowWidth=300)
    assert (narrow[values < 640] == 0).all() and (narrow[values > 960] == 1).all()


def test_a_sigmoid_is_its_formula():
    read = grey(VOILUTFunction="SIGMOID", WindowCenter=2000, WindowWidth=1500)
    np.testing.assert_allclose(read, 1 / (1 + np.exp(-4 * (TWELVE - 2000) / 1500)), atol=1e-5)


def table(entries, first, depth, data):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, first, depth])
    item.add_new("LUTData", "OW", np.asarray(data, "<u2").tobytes())
    return [item]


@pytest.mark.parametrize("depth", (8, 10, 12, 16))
def test_lookup_tables(depth):
    root = np.sqrt(np.arange(4096) / 4095)
    data = np.round((2**depth - 1) * root)
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        read = grey(**{name: table(4096, 0, depth, data)})
        if name == "ModalityLUTSequence":  # no window: the values' own range
            expected = np.clip((data - data[TWELVE].min()) / np.ptp(data[TWELVE]), 0, 1)[TWELVE]
        else:
            expected = root[TWELVE]
        assert np.abs(read - expected).max() < 2 / 2**depth, name


def test_padding_stays_out_of_the_scale():
    padded = np.pad(TWELVE, 20, constant_values=65535)
    read = grey(padded, bits=16, PixelPaddingValue=65535)
    assert off(read[20:-20, 20:-20]) < 0.6 and not read[:20].any()
    padded[:10] = 65000
    padded[20:-20, 20:-20] = 4095 - TWELVE
    read = grey(padded, "MONOCHROME1", 16, PixelPaddingValue=65535, PixelPaddingRangeLimit=65000)
    assert off(read[20:-20, 20:-20]) < 0.6 and not read[:20].any()
    refused(written(dataset(np.full((224, 224), 9), PixelPaddingValue=9)))


def test_bits_above_the_stored_ones_are_no_picture():
    legend = TWELVE + 4096 * (np.arange(224) % 50 < 5)
    assert off(grey(legend)) < 0.6
    assert off(grey(TWELVE, bits=16, BitsStored=8, HighBit=7)) < 0.6  # wrong, and not saturated


def test_float_pixels():
    file = dataset()
    del file.PixelData, file.BitsStored, file.HighBit, file.PixelRepresentation
    file.BitsAllocated = 32
    values = KNEE.astype("<f4")
    values[0, 0] = np.nan
    file.FloatPixelData = values.tobytes()
    expected = (KNEE - KNEE.min()) / np.ptp(KNEE)
    np.testing.assert_allclose(decode(written(file))[0][1:], expected[1:], atol=1e-4)
    file.WindowCenter, file.WindowWidth, file.VOILUTFunction = 127.5, 255, "LINEAR_EXACT"
    assert off(decode(written(file))[0][1:], KNEE[1:]) < 0.01


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 16), st.integers(100, 2000), st.booleans())
def test_64_grey_levels_survive(bits, levels, signed):
    "Whatever few of its levels a picture fills, and wherever they lie."
    levels = min(levels, 2**bits // 2 - 2)
    low = -levels // 2 if signed else 2**bits - 2 - levels
    read = grey(low + np.round(KNEE / 255 * levels), bits=bits, PixelRepresentation=int(signed))
    assert len(np.unique(np.rint(read * 255))) >= LEVELS


# --- DICOM: how it is written

SYNTAXES = dict(rle=uid.RLELossless, jpeg2000=uid.JPEG2000Lossless, jpegls=uid.JPEGLSLossless)


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_compressed_without_loss(syntax):
    if syntax != uid.RLELossless:
        pytest.importorskip("openjpeg" if syntax == uid.JPEG2000Lossless else "jpeg_ls")
    assert off(grey(compress=syntax)) < 0.6
    assert off(grey(TWELVE - 2048, PixelRepresentation=1, compress=syntax)) < 0.6


@pytest.mark.parametrize("bits", (16, 14, 8))
def test_the_streams_precision_counts(bits):
    pytest.importorskip("openjpeg")
    file = dataset(compress=uid.JPEG2000Lossless)
    file.BitsStored, file.HighBit = bits, bits - 1
    assert off(decode(written(file))[0]) < 0.6
    if bits == 14:
        legend = dataset(TWELVE + 4096 * (np.arange(224) % 50 < 5), bits=13)
        legend.compress(uid.JPEG2000Lossless)
        legend.BitsStored, legend.HighBit = 12, 11
        assert off(decode(written(legend))[0]) < 0.6


def with_stream(file, stream, syntax):
    "Bytes of a file whose pixels are a compressed stream."
    file.PixelData = pydicom.encaps.encapsulate([stream])
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    file.file_meta.TransferSyntaxUID = syntax
    return written(file)


def test_baseline_jpeg():
    stream = png(picture(noise=2), format="JPEG", quality=95)
    read = decode(with_stream(dataset(picture(), bits=8), stream, uid.JPEGBaseline8Bit))[0]
    assert np.abs(read * 255 - picture(noise=2)).mean() < 2


def test_nearly_lossless_jpeg_is_as_near_as_it_says():
    pytest.importorskip("jpeg_ls")
    for error in (1, 3):
        file = dataset()
        file.compress(uid.JPEGLSNearLossless, jls_error=error)
        assert 0 < np.abs(decode(written(file))[0] * 4095 - TWELVE).max() < error + 0.01


# two ramps of 32 x 32 pixels and 12 bits, lossless high-throughput JPEG 2000 by OpenJPH 0.31
HIGH_THROUGHPUT = (
    "/0//UQApQAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAABCwEB/1AACAACAAAABv9SAAwAAgABAAME"
    "BEAB/1wADSBocHBwcHBwaGho/2QAFwABT3BlbkpQSCBWZXIgMC4zMS4wLv+QAAoAAAAAAVIAAf+TwALf/2+H/N4z"
    "AgIQ8DHZSRFqlOgoIdwDPM38CDohQFmXAMABWwAFrwAFWMjiFAAA8CyFCSgP5QCDCCIA3DhJliaRZQCyTCXLIOhk"
    "Ax53AACwcfoAEL8kBscAwAFoQAF3cABVgECBAihJlZTgzjCyVCAP6ABFmfcoTwKQYorSBgEAMQAgCABAAABAEAAM"
    "AsAzAEAJJZRQQgkllFD+6EIBTSQgFNoxGikA95ymAtdzAQBgKuuAKwGM8JgAwALqYAF6fAAqAICAAAgIgIAAAAAA"
    "QSUAAADy09/rWta1rOm3RTKoupp+gtP0FGC5EegBP7j5iyd9cPGDgwYOMIKAEoxaAwAgREBAQEBAQEBAQEBAQEBA"
    "+P9MYDGB79jGB79jGB79jGB7LDDDDDDDqAABSge/ZBge+5CgW2lMB7d6AgT/YD4BAucA/9k="
)


@pytest.mark.parametrize("syntax", (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K))
def test_high_throughput_jpeg_2000(syntax):
    pytest.importorskip("openjpeg")
    row, column = np.mgrid[:32, :32]
    ramps = 4095 * np.where(row < 16, column, row) // 31
    data = with_stream(dataset(ramps), base64.b64decode(HIGH_THROUGHPUT), syntax)
    assert np.abs(decode(data)[0] * 4095 - ramps).max() < 0.01


def in_channels(values, kind="RGB", bits=8, planes=False):
    file = dataset(values[..., 0], kind, bits, SamplesPerPixel=3, PlanarConfiguration=int(planes))
    values = np.moveaxis(values, -1, 0) if planes else values
    file.PixelData = values.astype("u1" if bits == 8 else "<u2").tobytes()
    return file


def test_colour_that_is_grey_is_read():
    for bits in (8, 12, 16):
        values = np.dstack([np.round(KNEE / 255 * (2**bits - 1))] * 3)
        for planes in (False, True):
            assert off(decode(written(in_channels(values, bits=bits, planes=planes)))[0]) < 0.1
    values[:9, :9, 0] = 0
    refused(written(in_channels(values, bits=16)))
    Image.fromarray(picture(noise=2)).convert("RGB").save(stream := io.BytesIO(), "JPEG")
    for kind in ("YBR_FULL_422", "YBR_FULL"):
        file = in_channels(np.dstack([KNEE] * 3), kind)
        read = decode(with_stream(file, stream.getvalue(), uid.JPEGBaseline8Bit))[0]
        assert np.abs(read * 255 - picture(noise=2)).mean() < 2
    pytest.importorskip("openjpeg")
    file = in_channels(np.dstack([TWELVE] * 3), bits=12)
    file.compress(uid.JPEG2000Lossless)
    assert off(decode(written(file))[0]) < 0.1


def sample(name):
    "One of pydicom's own test files."
    pytest.importorskip("data_store")
    return pydicom.data.get_testdata_file(name, download=False)


@pytest.mark.parametrize(
    "name", ("JPEG-LL", "JPGExtended", "JPEGLSNearLossless_08", "JPEGLSNearLossless_16")
)
def test_streams_as_scanners_write_them(name):
    pytest.importorskip("libjpeg")
    file = pydicom.dcmread(sample(f"{name}.dcm"))
    made = dataset(bits=file.BitsStored, PixelRepresentation=file.PixelRepresentation)
    made.Rows, made.Columns = file.Rows, file.Columns
    stream = next(pydicom.encaps.generate_frames(file.PixelData, number_of_frames=1))
    read = decode(with_stream(made, stream, file.file_meta.TransferSyntaxUID), roi=False)[0]
    stored = file.pixel_array
    assert read.shape == stored.shape == (file.Rows, file.Columns)
    assert np.corrcoef(read.ravel(), np.clip(stored, 0, None).ravel())[0, 1] > 0.9


def test_a_syntax_that_cannot_be_read_is_named():
    broken = sample("JPEG-lossy.dcm")  # a marker out of place, by libjpeg
    stream = next(pydicom.encaps.generate_frames(pydicom.dcmread(broken).PixelData))
    made = dataset(Rows=1024, Columns=256)
    assert "JPEG Extended" in refused(with_stream(made, stream, uid.JPEGExtended12Bit))
    assert "MPEG2" in refused(with_stream(dataset(), stream, uid.MPEG2MPML))
    assert "1.2.3" not in refused(with_stream(dataset(), stream, uid.UID("1.2.3.4")))


def test_real_radiographs_that_are_no_knees():
    for name in ("RG1_UNCR.dcm", "RG3_UNCR.dcm"):  # a chest; an ankle, said to be an extremity
        with open(sample(name), "rb") as file:
            data = file.read()
        if "RG3" in name:
            assert decode(data, roi=False)[0].shape == (1760, 1760)
            with pytest.raises(UnreadableRadiograph):
                read_radiograph(sample(name))
        else:
            refused(data, roi=False)


def test_deflated_implicit_and_bare():
    file = dataset()
    file.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert off(decode(written(file))[0]) < 0.6
    data = written(dataset())
    assert off(decode(data[132:])[0]) < 0.6  # no preamble
    for implicit in (True, False):  # neither preamble nor file meta information
        plain, how = Dataset({e.tag: e for e in dataset(Modality="CR")}), dict(little_endian=True)
        pydicom.dcmwrite(out := io.BytesIO(), plain, implicit_vr=implicit, **how)
        assert off(decode(out.getvalue())[0]) < 0.6
    file = dataset()
    file.PixelData += bytes(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert off(decode(written(file))[0]) < 0.6


def test_a_missing_decoder_is_named(monkeypatch):
    data = with_stream(dataset(), b"\xff\xd8\xff\xc3", uid.JPEGLosslessSV1)
    refused(data)
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    assert "koa_repro[dicom]" in refused(data)


# --- DICOM: tags


@pytest.mark.parametrize(
    "tags, spacing",
    [
        (dict(PixelSpacing=[0.2, 0.3], ImagerPixelSpacing=[1, 1]), (0.2, 0.3)),
        (dict(ImagerPixelSpacing=[0.1, 0.1]), (0.1, 0.1)),
        (dict(PixelSpacing=[0, 0], ImagerPixelSpacing=[0.2, 0.2]), (0.2, 0.2)),
        (
            dict(ImagerPixelSpacing=[0.3, 0.3], EstimatedRadiographicMagnificationFactor=1.2),
            (0.25, 0.25),
        ),
        (
            dict(
                ImagerPixelSpacing=[0.3, 0.3],
                DistanceSourceToDetector=1200,
                DistanceSourceToPatient=1000,
            ),
            (0.25, 0.25),
        ),
        (dict(PixelSpacing=[0, 0]), None),
        ({}, None),
    ],
)
def test_spacing(tags, spacing):
    read = decode(written(dataset(**tags)))[1]
    assert read is spacing is None or np.allclose(read, spacing)


@pytest.mark.parametrize(
    "tags, side",
    [
        (dict(ImageLaterality="R"), "R"),
        (dict(ImageLaterality="U", Laterality="R"), "R"),
        (dict(Laterality="RIGHT"), "R"),
        (dict(FrameLaterality="L"), "L"),
        (dict(MeasurementLaterality="L"), "L"),
        (dict(SeriesDescription="RIGHT KNEE AP"), "R"),
        (dict(SeriesDescription="LEFT AND RIGHT KNEE"), None),
        (dict(ImageLaterality="L", SeriesDescription="RIGHT"), "L"),
        ({}, None),
    ],
)
def test_side(tags, side):
    assert decode(written(dataset(**tags)))[2] == side


def test_sides_that_contradict_and_both_knees():
    refused(written(dataset(ImageLaterality="L", Laterality="R")))
    both = written(dataset(ImageLaterality="B"))
    refused(both)
    assert decode(both, roi=False)[2] is None


def test_half_an_orientation_says_nothing():
    assert off(grey(PatientOrientation="LA")) < 0.6


def test_orientation_is_followed():
    for ends, stored in (
        (["L", "F"], TWELVE),
        (["R", "F"], TWELVE[:, ::-1]),
        (["R", "H"], TWELVE[::-1, ::-1]),
        (["F", "L"], TWELVE.T),
        (["H", "L"], TWELVE[::-1].T),
        (["F", "R"], TWELVE[:, ::-1].T),
    ):
        data = written(dataset(stored, PatientOrientation=ends, PixelSpacing=[0.1, 0.2]))
        read, spacing, _ = decode(data)
        assert off(read) < 0.6, ends
        assert spacing == ((0.2, 0.1) if ends[0] in "HF" else (0.1, 0.2))


@pytest.mark.parametrize(
    "tags",
    [
        dict(Modality="MR"),
        dict(BodyPartExamined="CHEST"),
        dict(BodyPartExamined="ANKLE"),
        dict(ViewPosition="LL"),
        dict(PatientOrientation=["A", "F"]),
        dict(PatientOrientation=["L", "P"]),
        dict(NumberOfFrames=3),
        dict(kind="RGB", SamplesPerPixel=3),
        dict(kind="RGB"),
        dict(SamplesPerPixel=3),
        dict(kind="PALETTE COLOR"),
        dict(Rows=9999),
        dict(Rows=112, Columns=112),
        dict(Rows=0),
        dict(WindowCenter=9, WindowWidth=0),
    ],
)
def test_other_dicom_is_refused(tags):
    refused(written(dataset(**tags)))


@pytest.mark.parametrize(
    "tag", "PhotometricInterpretation SamplesPerPixel BitsAllocated BitsStored".split()
)
def test_a_tag_that_is_missing_is_named(tag):
    file = dataset()
    del file[tag]
    assert tag in refused(written(file))


def test_body_parts_that_hospitals_write():
    for part in ("KNEE", "LOW_EXM", "KNIE", "Knee AP", "EXTREMITY", "LEG"):
        assert off(grey(BodyPartExamined=part, Modality="CR", ViewPosition="AP")) < 0.6


def test_tags_are_believed_unless_the_picture_is_sure(tmp_path):
    (tmp_path / "x.dcm").write_bytes(written(dataset(4095 - TWELVE)))
    read = read_radiograph(tmp_path / "x.dcm")
    assert read.inverted and off(read.image) < 0.6
    read = read_radiograph(tmp_path / "x.dcm", roi=False)  # a film is shown as its tags say
    assert not read.inverted and off(1 - read.image) < 0.6
    faint = (TWELVE // 8 + np.linspace(3000, 0, 224)).astype(int)  # the knee is hardly there
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        data = written(dataset(faint, kind))
        assert abs(polarity(decode(data)[0])) < SURE
        assert not as_knee(decode(data)[0]).inverted


def test_identity_stays_in_the_file(tmp_path):
    secret = dict(PatientName="Secret^Name", PatientID="4711", PatientBirthDate="19470101")
    for name, more in (("a", {}), ("b", dict(NumberOfFrames=2)), ("c", dict(Rows=3000))):
        (tmp_path / name).write_bytes(written(dataset(**secret, **more)))
        try:
            told = repr(read_radiograph(tmp_path / name))
        except UnreadableRadiograph as e:
            told = str(e)
        assert not [s for s in ("Secret", "4711", "1947") if s in told]


@pytest.mark.parametrize("tag", ["Modality", "kind", "ViewPosition", "BodyPartExamined"])
@pytest.mark.parametrize("value", ["DOE, JOHN", "LAT DOE^JOHN", "CHEST DOE", "MR DOE", "RGB DOE"])
def test_a_name_in_a_tag_that_is_looked_at_is_not_told(tag, value, recwarn):
    data = written(dataset(**{tag: value}))
    recwarn.clear()
    for roi in (True, False):
        try:
            decode(data, roi)
        except UnreadableRadiograph as e:
            assert "DOE" not in str(e)
    assert not recwarn.list


def test_another_view_is_refused_of_a_film_too():
    data = written(dataset(ViewPosition="LATERAL"))
    for roi in (True, False):
        with pytest.raises(UnreadableRadiograph, match="LATERAL"):
            decode(data, roi)


def test_a_window_that_shows_nothing_is_told():
    refused(written(dataset(WindowCenter=30000, WindowWidth=100)))


# --- recognition


@pytest.fixture(scope="module")
def examples():
    return example_knees().images


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.4, 2.5),
    st.floats(2, 25),  # as any film has; without noise, rounding decides what is a flat area
    st.sampled_from((150, 224, 299, 300, 512)),
)
def test_polarity_is_a_sign(seed, gamma, noise, edge):
    image = (255 * (picture(seed, edge, noise) / 255) ** gamma).astype(np.uint8)
    up, down = polarity(image), polarity(255 - image)
    assert up > A_KNEE and abs(up + down) < 0.02  # block means are rounded to whole grey levels
    assert abs(polarity((image / 255).astype(np.float32)) - up) < 0.05


def laid_over(image, kind, seed):
    "Strips, boxes, collimation, letters: simulated, of any grey."
    rng = np.random.default_rng(seed)
    edge, value = len(image), int(rng.choice([0, 255, rng.integers(256)]))
    draw = ImageDraw.Draw(shown := Image.fromarray(image))
    a, b, c, d = map(int, rng.integers(10, edge // 5, 4))
    if kind == "strips":
        draw.rectangle((0, 0, a, edge), fill=value)
        draw.rectangle((edge - b, 0, edge, edge), fill=value)
        draw.rectangle((0, 0, edge, c), fill=value)
    elif kind == "box":
        x, y = map(int, rng.integers(0, edge // 2, 2))
        draw.rectangle((x, y, x + 3 * a, y + 3 * b), fill=value)
    elif kind == "turned collimation":
        draw.polygon([(0, 0), (a, 0), (b, edge), (0, edge)], fill=value)
        draw.polygon([(edge, 0), (edge - c, 0), (edge - d, edge), (edge, edge)], fill=value)
    else:
        draw.text((a, b), "R AP", fill=value, font_size=edge // 6)
    return np.asarray(shown)


@pytest.mark.parametrize("kind", ("strips", "box", "turned collimation", "letters"))
def test_nothing_laid_over_a_knee_turns_it(examples, kind):
    for seed, image in enumerate(examples):
        assert polarity(laid_over(image, kind, seed)) > A_KNEE
        assert polarity(laid_over(255 - image, kind, seed)) < -A_KNEE


def test_white_collimation_leaves_a_knee_as_it_is(tmp_path, examples):
    for image in examples:
        image = image.copy()
        image[:, :21] = image[:, -21:] = 255
        Image.fromarray(image).save(tmp_path / "x.png")
        (tmp_path / "x.dcm").write_bytes(written(dataset(image.astype(int) * 16)))
        for name in ("x.png", "x.dcm"):
            read = read_radiograph(tmp_path / name)
            assert not read.inverted
            assert np.corrcoef(read.image[:, 30:-30].ravel(), image[:, 30:-30].ravel())[0, 1] > 0.99


def test_an_inverted_knee_is_put_right(tmp_path, examples):
    for image in examples:
        Image.fromarray(255 - image).save(tmp_path / "x.png")
        read = read_radiograph(tmp_path / "x.png")
        assert read.inverted and np.abs(read.image * 255 - image).max() < 0.01
        knee = as_knee(255 - image)
        assert knee.inverted and (knee.roi == image).all() and knee.polarity <= -SURE


def test_turned_two_or_none(examples):
    "Refused, and for different reasons."
    image = examples[0]
    gap = np.full((300, 80), 10, np.uint8)
    pair = np.hstack([image, gap, examples[1]])
    film = np.pad(pair, ((190, 190), (0, 0)))
    squeezed = np.asarray(Image.fromarray(pair).resize((300, 300)))
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    ramp = np.tile(np.arange(300) * 0.85, (300, 1)).astype(np.uint8)
    why = lambda picture: as_knee(picture).wrong
    reasons = {
        "quarter": [why(np.ascontiguousarray(np.rot90(image, k))) for k in (1, 3)],
        "half": [why(np.ascontiguousarray(image[::-1, ::-1]))],
        "two": [why(film), why(squeezed), why(255 - squeezed)],
        "none": [why(noise), why(ramp), why(ramp.T.copy())],
        "blank": [why(np.full((300, 300), 90, np.uint8))],
    }
    assert all(all(r) for r in reasons.values())
    first = [r[0] for r in reasons.values()]
    assert len(set(first)) == len(first)
    assert all(why(x) is None for x in (*examples, *(255 - examples)))


def test_quality_has_numbers(examples):
    "Each disturbance moves its own measure beyond its limit."
    image = examples[1]
    shifted = np.pad(image, ((0, 0), (90, 0)), mode="edge")[:, :300]
    lower = np.pad(image, ((110, 0), (0, 0)), mode="edge")[:300]
    turned = np.asarray(Image.fromarray(image).rotate(35, Image.Resampling.BILINEAR))
    large = np.asarray(Image.fromarray(image[95:205, 95:205]).resize((300, 300)))
    covered = image.copy()
    covered[:100] = 0
    dull = (120 + image / 20).astype(np.uint8)
    burnt = np.clip(image.astype(int) * 3 - 250, 0, 255).astype(np.uint8)
    metal = (image // 3).astype(np.uint8)
    bars = np.random.default_rng(0).integers(225, 256, (30, 240))
    metal[100:130, 30:270] = metal[170:200, 30:270] = bars
    for name, bad in dict(
        right=shifted,
        down=lower,
        turned=turned,
        magnified=large,
        covered=covered,
        contrast=dull,
        clipped=burnt,
        metal=metal,
    ).items():
        good, found, limit = measures(image)[name], measures(bad)[name], LIMITS[name][0]
        assert (good < limit < found) or name == "contrast" and good > limit > found, name
        assert as_knee(bad).wrong and as_knee(bad).roi is None, name


def test_a_knee_among_many_reasons_is_refused_by_the_reader(tmp_path, examples):
    Image.fromarray(np.rot90(examples[0])).save(tmp_path / "x.png")
    with pytest.raises(UnreadableRadiograph, match="x.png"):
        read_radiograph(tmp_path / "x.png")
    assert not read_radiograph(tmp_path / "x.png", roi=False).inverted


# --- files that are none, or hostile


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    (tmp_path / "folder.png").mkdir()
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(100 << 30)
    for name in ("pipe", "zero", "folder", "sparse"):
        with pytest.raises(UnreadableRadiograph, match=name):
            read_radiograph(tmp_path / f"{name}.png")
        with pytest.raises(UnreadableRadiograph):
            file_bytes(tmp_path / f"{name}.png")
    with pytest.raises(FileNotFoundError, match="gone"):
        read_radiograph(tmp_path / "gone.png")


def deflated(body) -> bytes:
    file = dataset()
    file.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    head = written(file)
    packed = zlib.compressobj(1, wbits=-15)
    plain = written(dataset())
    tail = plain[plain.index(b"\x08\0") if b"\x08\0" in plain[:400] else 0 :]
    at = head.index(b"1.2.840.10008.1.2.1.99") + 22
    return head[:at] + packed.compress(tail) + packed.compress(body) + packed.flush()


@pytest.fixture(scope="module")
def hostile():
    return dict(bombs())


def bombs():
    "Small files that unfold into gigabytes, and formats that were never promised."
    Image.new("1", (14_000, 13_000)).save(big := io.BytesIO(), format="PNG")
    yield "png", big.getvalue()
    Image.new("1", (9000, 9000)).save(big := io.BytesIO(), format="TIFF", compression="group4")
    yield "tiff", big.getvalue()
    pages = [Image.new("1", (8, 8))] * 300
    pages[0].save(big := io.BytesIO(), format="TIFF", save_all=True, append_images=pages)
    yield "pages", big.getvalue()
    yield "deflated", deflated(bytes(LARGEST_FILE))
    for rows, columns in ((65535, 65535), (65535, 2), (1, 1), (0, 5)):
        yield f"{rows} x {columns}", written(dataset(Rows=rows, Columns=columns))
    for name in ("GIF", "WEBP", "BMP", "PPM", "TGA", "ICO"):
        try:
            Image.fromarray(KNEE).save(other := io.BytesIO(), format=name)
        except (KeyError, OSError):
            continue
        yield name, other.getvalue()
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 224 224\n{} loop\n%%EOF\n"
    yield "empty", b""
    yield "text", b"no picture"
    yield "preamble", b"\0" * 128 + b"DICM"
    yield "junk", b"\0" * 128 + b"DICM" + bytes(range(256)) * 40
    for syntax in ("1.2.3.4", "", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"):
        file = dataset()
        data = written(file).replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0"))
        yield f"syntax {syntax}", data
    yield "rle", with_stream(dataset(), b"\xff" * 64, uid.RLELossless)
    large = b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xd9"
    yield "jpeg of 65,535 x 65,535", with_stream(dataset(), large, uid.JPEGBaseline8Bit)
    several = dataset()
    several.PixelData = several.PixelData * 3
    yield "three pictures' worth", written(several)
    yield from more_bombs()


def tiff_of(edge, following=0, widths=1) -> bytes:
    "A TIFF without pixels: its size, where its next page begins, how many widths it has."
    tags = [(256, 4, widths, edge), (257, 4, 1, edge), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, edge), (279, 4, 1, 100)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + body + struct.pack("<I", following) + bytes(64)


def more_bombs():
    "In what a picture does not show, in chains, in lengths and in repetition."
    whole, much = png(KNEE), zlib.compress(bytes(200 << 20), 1)
    for kind in (b"zTXt", b"iCCP"):
        yield f"png {kind}", whole[:33] + part(kind, b"a\0\0" + much) + whole[33:]
    size = struct.pack(">IIBBBBB", 65535, 65535, 8, 0, 0, 0, 0)
    yield (
        "png of 65,535 x 65,535",
        whole[:8] + part(b"IHDR", size) + part(b"IDAT", b"") + whole[-12:],
    )
    yield "tiff of 65,535 x 65,535", tiff_of(65535)
    yield "tiff in a circle", tiff_of(224, following=8)
    yield "tiff of many widths", tiff_of(224, widths=2**32 - 1)
    Image.fromarray(KNEE).save(scans := io.BytesIO(), "JPEG", progressive=True)
    scans = scans.getvalue()
    repeated = scans[:-2] + scans[scans.rindex(b"\xff\xda") : -2] * 4000 + scans[-2:]
    yield "jpeg of 4,000 scans", repeated
    one = dataset(KNEE, bits=8)
    yield "DICOM of 4,000 scans", with_stream(one, repeated, uid.JPEGBaseline8Bit)
    plain = written(dataset())
    at = plain.index(b"\xe0\x7f\x10\0")  # the pixels
    nested = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3000
    yield "nested 3,000 times", plain[: plain.index(b"\x28\0\x02\0US")] + nested
    yield "a length of 1", plain[: at + 8] + b"\x01\0\0\0" + plain[at + 12 :]
    runs = struct.pack("<16I", 2, 64, 64, *[0] * 13) + b"\x81\0" * 4000
    yield (
        "runs that do not end",
        with_stream(dataset(Rows=6000, Columns=6000), runs, uid.RLELossless),
    )
    sizes = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">8I", 65535, 65535, 0, 0, 9, 9, 0, 0)
    yield "JPEG 2000 of 65,535 x 65,535", with_stream(dataset(), sizes + bytes(9), uid.JPEG2000)


def malformed():
    "Whole files cut short, and with wrong bytes."
    Image.fromarray(KNEE).save(tiff := io.BytesIO(), format="TIFF")
    whole = [
        png(KNEE),
        png(KNEE, format="JPEG"),
        tiff.getvalue(),
        written(dataset()),
        written(dataset(compress=uid.RLELossless)),
    ]
    for data in whole:
        for share in np.linspace(0.001, 0.97, 16):
            yield data[: int(len(data) * share)]
        rng = np.random.default_rng(len(data))
        for _ in range(20):
            spoiled = bytearray(data)
            for at in rng.integers(0, 400, 4):
                spoiled[at] = rng.integers(256)
            yield bytes(spoiled)


def test_bombs_and_other_formats_are_refused(hostile):
    for name, data in hostile.items():
        assert refused(data), name


def test_malformed_files_are_sentences(recwarn):
    count = 0
    for data in malformed():
        count += 1
        try:
            image, *_ = decode(data)
            assert image.ndim == 2 and image.size <= LARGEST
        except UnreadableRadiograph as e:
            assert "\n" not in str(e)
    assert count >= 180
    assert not recwarn.list  # a decoder's may quote what a file says


def test_hostile_files_need_little_memory(hostile, tmp_path, examples):
    """Each refused by a process that may not take 2 GB more than it has after its imports, and
    the rest of the folder examined by it."""
    for i, data in enumerate(hostile.values()):
        (tmp_path / f"{i}.png").write_bytes(data)
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    for i in range(2):
        Image.fromarray(examples[i]).save(tmp_path / f"knee{i}L.png")
    code = (
        "import resource, sys, pathlib\n"
        "from koa_repro.check import examine\n"
        "from koa_repro.radiographs import UnreadableRadiograph, read_radiograph\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30),) * 2)\n"
        "for path in pathlib.Path(sys.argv[1]).glob('[!k]*'):\n"
        "    try: raise SystemExit(f'{path} was read: {read_radiograph(path)}')\n"
        "    except UnreadableRadiograph as e: assert 'memory' not in str(e), e\n"
        "report = examine(sys.argv[1], names=True)\n"
        "seen = report.files.file[report.files.polarity > 0]\n"
        "assert sorted(seen) == ['knee0L.png', 'knee1L.png'], report.files\n"
        "assert len(report.files) == len(list(pathlib.Path(sys.argv[1]).iterdir()))\n"
        "assert report.files.reason.str.len().gt(9).all()  # the knees have no grade\n"
    )
    if not os.path.exists("/proc/self/statm") or not hasattr(resource, "RLIMIT_AS"):
        pytest.skip("no limit on memory here")
    run = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


def test_too_little_memory_is_told_as_what_it_is(monkeypatch):
    def full(*args, **options):
        raise MemoryError

    monkeypatch.setattr("koa_repro.radiographs._grey", full)
    assert "memory" in refused(png(KNEE))
    monkeypatch.setattr("koa_repro.dicom._grey", full)
    assert "memory" in refused(written(dataset()))


# --- the published knees

PUBLISHED = "6aa8c56325a9c7311910c0000c616d168e98f2dba679bfa19541cf0298b081eb"  # every eighth


def test_published_knees_are_what_the_reference_runs_saw(knees_folder):
    "Byte for byte, and the inverted ones among them; knee_files' notebook compares all 8,260."
    listed = published_knees().sort_values("file")[::8]
    digest, inverted = hashlib.sha256(), []
    for file in listed.file:
        knee = as_knee(decode(file_bytes(knees_folder / file))[0])
        digest.update(knee.roi.tobytes())
        inverted.append(knee.inverted)
    assert len(listed) == 1033 and digest.hexdigest() == PUBLISHED
    assert inverted == listed.inverted.tolist() and sum(inverted) == 11
    assert SURE > A_KNEE
