"""Pictures in, pixels out: equal to transformers' Pillow processors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import edgevlm.inputs.pictures
from edgevlm import schema
from edgevlm.bundle.spec import ImagePreprocessing, Resample
from edgevlm.errors import CheckpointError, ImageError
from edgevlm.inputs.pictures import decode, preprocess, resize_and_crop
from edgevlm.inputs.resampling import resize_part
from edgevlm.models.checkpoints import picture_rules

CLIP = {"image_processor_type": "CLIPImageProcessor"}
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}

# What openai/clip-vit-base-patch32, a fast processor's save and google/siglip-base-patch16-224 have in their files.
HUB = {
    "clip of 2021": {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    },
    "clip fast": {
        "image_processor_type": "CLIPImageProcessorFast",
        "crop_size": {"height": 336, "width": 336},
        "size": {"shortest_edge": 336},
        "do_convert_rgb": True,
        "do_pad": None,
        "pad_size": None,
        "data_format": "channels_first",
        "rescale_factor": 0.00392156862745098,
    },
    "siglip": {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    },
    "clip's defaults": CLIP,
    "siglip's defaults": SIGLIP,
}

SMALL: dict[str, dict[str, Any]] = {
    "shortest edge": {**CLIP, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "even to odd crop": {**CLIP, "size": 32, "crop_size": 29},
    "odd to even crop": {**CLIP, "size": 33, "crop_size": 24},
    "crop larger by an odd number": {**CLIP, "size": 20, "crop_size": 33},
    "wide crop": {**CLIP, "size": 24, "crop_size": {"height": 17, "width": 40}},
    "crop alone": {**CLIP, "do_resize": False, "crop_size": 31},
    "exact": {**SIGLIP, "size": {"height": 24, "width": 40}},
    "exact as a list": {**SIGLIP, "size": [24, 40]},
    "squared": {**CLIP, "size": 30, "default_to_square": True, "do_center_crop": False},
    "exact, then crop": {**SIGLIP, "size": [40, 30], "do_center_crop": True, "crop_size": 27},
    "raw": {**CLIP, "size": 32, "crop_size": 32, "do_rescale": False, "do_normalize": False},
    "no mean": {**CLIP, "size": 32, "crop_size": 32, "do_normalize": False},
    "own numbers": {**SIGLIP, "size": [9, 9], "rescale_factor": 1 / 127.5, "image_mean": [1, 1.5, 2], "image_std": 0.7},
}
RESAMPLES = {
    name: {**CLIP, "size": 32, "crop_size": 32, "resample": number}
    for number, name in enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"))
}
SIZES = ((1, 1), (1, 37), (37, 1), (5, 7), (32, 32), (31, 64), (300, 201), (97, 300))


def oracle(config: dict[str, Any]) -> CLIPImageProcessorPil | SiglipImageProcessorPil:
    name = config.get("image_processor_type") or config["feature_extractor_type"]
    return (CLIPImageProcessorPil if name.startswith("CLIP") else SiglipImageProcessorPil)(**config)


def read(
    config: Any, *, image_size: tuple[int, int] = (32, 32), file: str = "preprocessor_config.json"
) -> ImagePreprocessing:
    """The rules of a folder that holds the config alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file).write_text(json.dumps(config))
        return picture_rules.from_checkpoint(Path(folder), image_size=image_size)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("config", [*SMALL.values(), *RESAMPLES.values()], ids=[*SMALL, *RESAMPLES])
def test_pixels_equal_the_processors_to_the_bit(config: dict[str, Any], size: tuple[int, int]) -> None:
    image = pictures.scene(*size)
    expected = oracle(config)(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    got = resize_and_crop(image, read(config))
    assert got.dtype == expected.dtype == np.uint8
    np.testing.assert_array_equal(got.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("config", [*HUB.values(), *SMALL.values()], ids=[*HUB, *SMALL])
def test_the_numbers_give_the_processors_floats(config: dict[str, Any]) -> None:
    image, spec = pictures.scene(97, 301), read(config)
    expected = oracle(config)(image)["pixel_values"][0]
    mean, std = np.reshape(spec.mean, (3, 1, 1)), np.reshape(spec.std, (3, 1, 1))
    got = (preprocess(image, spec)[0] * spec.rescale - mean) / std
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_an_artefacts_input_is_a_contiguous_batch_of_one() -> None:
    pixels = preprocess(pictures.scene(20, 50), read(SMALL["wide crop"]))
    assert pixels.shape == (1, 3, 17, 40)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.max() > 200


@pytest.mark.parametrize("picture", pictures.EVERY_MODE.values(), ids=pictures.EVERY_MODE)
def test_every_mode_becomes_the_processors_rgb(picture: Any) -> None:
    content = picture()
    expected = oracle(SIGLIP)(Image.open(io.BytesIO(content)), do_resize=False, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(np.asarray(decode(content)).transpose(2, 0, 1), expected["pixel_values"][0])


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert set(decode(clear).get_flattened_data()) == {(255, 255, 255)}


@pytest.mark.parametrize("orientation", pictures.ORIENTATIONS)
def test_exif_orientation_turns_the_picture_upright(orientation: int) -> None:
    content = pictures.oriented(orientation)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(np.asarray(decode(content)), turned)
    np.testing.assert_array_equal(np.asarray(decode(Image.open(io.BytesIO(content)))), turned)


def ifd(*entries: tuple[int, int, int, bytes], rest: bytes = b"") -> bytes:
    """An EXIF block of entries: tag, type, count, and the value or where it is, counted from the block's byte 6."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + rest


TURNED = (0x112, 3, 1, b"\6\0")
AFTER_TWO = struct.pack("<I", 8 + 2 + 12 * 2 + 4)
ODD_EXIF: dict[str, tuple[bytes, bool]] = {
    "blank": (b"Exif\0\0", False),
    "twice": (b"Exif\0\0" + ifd(TURNED), True),
    "garbage": (b"Exif\0\0" + bytes(range(40)), False),
    "cut short": (ifd(TURNED, (0x110, 2, 40, b"\x60\xea"))[:-20], False),
    "two values": (ifd((0x112, 3, 2, b"\6\0\6\0")), True),
    "orientation 0": (ifd((0x112, 3, 1, b"\0\0")), False),
    "orientation 9": (ifd((0x112, 3, 1, b"\x09\0")), False),
    "a long": (ifd((0x112, 4, 1, b"\6\0")), True),
    "a text": (ifd((0x112, 2, 2, b"6\0")), False),
    "two resolutions": (ifd(TURNED, (0x11A, 5, 2, AFTER_TWO), rest=struct.pack("<4I", 72, 1, 72, 1)), True),
    "by zero": (ifd(TURNED, (0x11A, 5, 1, AFTER_TWO), rest=struct.pack("<2I", 1, 0)), True),
    "signed, by zero": (ifd(TURNED, (0x9204, 10, 1, AFTER_TWO), rest=struct.pack("<2i", -1, 0)), True),
    "resolution -1/0": (ifd(TURNED, (0x11A, 10, 1, AFTER_TWO), rest=struct.pack("<2i", -1, 0)), True),
    "unknown types": (ifd(TURNED, (0x9999, 0, 1, b""), (0x9998, 200, 1, b"")), True),
    "counts of 0": (ifd(TURNED, (0x10F, 2, 0, b""), (0x11A, 5, 0, b"")), True),
    "a circle": (ifd(TURNED, (0x8769, 4, 1, b"\x08")), True),
    "past the end": (ifd(TURNED, (0x8769, 4, 1, struct.pack("<I", 99999))), True),
    "a text for a place": (ifd(TURNED, (0x8769, 2, 4, b"abc")), True),
    "a huge count": (
        ifd(
            *(TURNED, (0x8825, 4, 1, AFTER_TWO)),
            rest=struct.pack("<HHHIIHHII", 2, 1, 2, 2, 0x4E, 2, 5, 0x40000000, 3),
        ),
        True,
    ),
    "a number for bytes": (ifd(TURNED, (0x9286, 3, 1, b"\7")), True),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", ODD_EXIF)
def test_a_whole_picture_is_read_whatever_its_exif_says(case: str) -> None:
    exif, turned = ODD_EXIF[case]
    plain = pictures.encode(pictures.scene(20, 30), "JPEG", quality=95)
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    stored = np.asarray(Image.open(io.BytesIO(plain)))
    np.testing.assert_array_equal(np.asarray(decode(content)), np.rot90(stored, -1) if turned else stored)


def test_sixteen_bit_grey_keeps_its_range_and_equals_sixteen_bit_colour() -> None:
    levels = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    grey = np.asarray(decode(pictures.sixteen_bit_png(levels)))
    colour = np.asarray(decode(pictures.sixteen_bit_png(np.stack([levels] * 3, -1))))
    np.testing.assert_array_equal(grey, colour)
    np.testing.assert_array_equal(grey[..., 0], levels >> 8)


def test_the_clear_level_of_sixteen_bit_grey_is_white() -> None:
    levels = np.array([[100, 101], [30000, 40000]], np.uint16)
    content = pictures.encode(Image.fromarray(levels), transparency=100)
    assert np.asarray(decode(content))[..., 0].tolist() == [[255, 0], [30000 >> 8, 40000 >> 8]]


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = pictures.scene(11, 13)
    content, path = pictures.encode(image), tmp_path / "picture.png"
    path.write_bytes(content)
    sources: list[Any] = [path, str(path), content, bytearray(content), memoryview(content), image, np.asarray(image)]
    sources.append(np.asarray(image)[:, ::-1][:, ::-1])
    for source in sources:
        np.testing.assert_array_equal(np.asarray(decode(source)), np.asarray(image))
    np.testing.assert_array_equal(np.asarray(decode(np.asarray(image)[..., 0])), np.asarray(image)[..., [0, 0, 0]])


def test_decoding_leaves_the_callers_picture_as_it_was() -> None:
    image = Image.open(io.BytesIO(pictures.oriented(6)))
    decode(image)
    assert image.size == (30, 20)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere/picture.jpg", "no such file"),
        (".", "cannot be opened"),
        ("null\0byte.png", "cannot be opened"),
        (b"", "not a picture"),
        (b"<html>404</html>", "not a picture"),
        (pictures.oriented(1)[:-200], "damaged, truncated or closed"),
        (pictures.rgba()[:-60], "damaged, truncated or closed"),
        (pictures.bomb_png(), "too many pixels"),
        (pictures.bomb_png(11_600, 11_600), "too many pixels: expected at most 134,217,728, got 11600 x 11600"),
        (pictures.bomb_png(11_500, 11_500), "damaged, truncated or closed"),
        (pictures.encode(pictures.scene(4, 4), "EPS"), "EPS is a program"),
        (Image.new("RGB", (0, 5)), "at least one pixel"),
        (Image.new("F", (5, 5)), "no agreed range"),
        (Image.new("I", (5, 5)), "no agreed range"),
        (np.zeros((3, 8, 8), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"\[1, 8, 8, 3\]"),
        (17, "got int"),
    ],
)
def test_what_is_no_picture_is_an_image_error(source: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode(source)


def test_a_closed_picture_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "closed.png"
    path.write_bytes(pictures.grey())
    with Image.open(path) as image:
        pass
    with pytest.raises(ImageError, match="damaged, truncated or closed"):
        decode(image)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger than file")
@pytest.mark.parametrize("content", [pictures.oriented(6), pictures.rgba(), pictures.gif_with_clear_colour()])
def test_damage_anywhere_is_an_image_error_or_a_picture(content: bytes) -> None:
    rng = np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 4):
            damaged[position] = rng.integers(0, 256)
        with contextlib.suppress(ImageError):
            assert decode(bytes(damaged)).mode == "RGB"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("config", [*SMALL.values(), *RESAMPLES.values()], ids=[*SMALL, *RESAMPLES])
def test_what_a_crop_keeps_equals_the_processors_to_the_bit_without_the_rest(
    config: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgevlm.inputs.pictures, "_LARGEST_WHOLE", 0)
    test_pixels_equal_the_processors_to_the_bit(config, size)


_SIDES = st.one_of(st.integers(1, 20), st.integers(1, 300))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_SIDES, _SIDES, _SIDES, _SIDES, st.sampled_from(get_args(Resample)), st.data())
def test_any_part_of_a_scaled_picture_is_that_part_of_pillows(
    height: int, width: int, new_height: int, new_width: int, resample: Resample, data: st.DataObject
) -> None:
    noise = np.random.default_rng(height * 1000 + width).integers(0, 2, (height, width, 3)) * 255
    image = Image.fromarray(noise.astype(np.uint8))
    (top, bottom), (left, right) = (
        sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True)))
        for side in (new_height, new_width)
    )
    whole = np.asarray(image.resize((new_width, new_height), Image.Resampling[resample.upper()]))
    part = resize_part(image, new_height, new_width, resample, slice(top, bottom), slice(left, right))
    np.testing.assert_array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1), (10, 400_000)], ids=str)
def test_a_strip_of_few_bytes_takes_little_memory(size: tuple[int, int], tmp_path: Path) -> None:
    """Scaled as a whole, a picture of 1 x 40,000 pixels takes 1.2 GB for a model of 64 x 64."""
    path = tmp_path / "strip.png"
    Image.new("L", size[::-1], 77).save(path)
    assert path.stat().st_size < 10_000
    spec = schema.write(read({**CLIP, "size": 64, "crop_size": 64}, image_size=(64, 64)))
    program = f"""
import resource
from edgevlm import schema
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import ImageError
from edgevlm.inputs.pictures import preprocess
spec = schema.read(ImagePreprocessing, {spec!r}, where="spec", error=ImageError)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = preprocess({str(path)!r}, spec)
assert pixels.shape == (1, 3, 64, 64) and (pixels == 77).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(found.stdout) * unit < 40e6


@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA", "P with transparency", "I;16", "I;16 with transparency"])
def test_bands_of_a_picture_are_what_the_whole_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, _, transparent = kind.partition(" with ")
    rng = np.random.default_rng(3)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 1 << 16, (37, 29)).astype(np.uint16))
    else:
        rgba = Image.fromarray(rng.integers(0, 256, (37, 29, 4), dtype=np.uint8))
        image = rgba.convert("RGB").quantize(16) if mode.startswith("P") else rgba.convert(mode)
        image = image.convert("PA") if mode == "PA" else image
    if transparent:
        image.info["transparency"] = int(np.asarray(image)[5, 5])
    whole = decode(image)
    monkeypatch.setattr(edgevlm.inputs.pictures, "_LARGEST_WHOLE", 100)
    np.testing.assert_array_equal(np.asarray(decode(image)), np.asarray(whole))
    assert transparent == "" or np.asarray(whole)[5, 5].tolist() == [255] * 3


def test_a_picture_too_narrow_to_scale_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ImageError, match="too narrow"):
        preprocess(Image.new("RGB", (1, 60_000)), read(CLIP))


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero"])
def test_a_pipe_or_a_device_is_no_picture(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="expected a file, got a pipe or a device"):
        decode(tmp_path / name)


def test_without_resize_and_crop_the_picture_must_have_the_networks_size() -> None:
    spec = read({**SIGLIP, "do_resize": False}, image_size=(24, 40))
    assert (spec.height, spec.width, spec.resize) == (24, 40, "none")
    assert preprocess(pictures.scene(24, 40), spec).shape == (1, 3, 24, 40)
    with pytest.raises(ImageError, match=r"expected a picture of 24 x 40 pixels .* got 40 x 24"):
        preprocess(pictures.scene(40, 24), spec)


def test_a_nested_processor_config_is_read_like_a_flat_one() -> None:
    nested = {"processor_class": "SiglipProcessor", "image_processor": {**SIGLIP, "size": [48, 64]}}
    assert read(nested, file="processor_config.json") == read({**SIGLIP, "size": [48, 64]})


@pytest.mark.parametrize("key", ["do_resize", "do_center_crop", "do_rescale", "do_normalize"])
def test_null_means_what_it_means_to_transformers(key: str) -> None:
    config = {**CLIP, "size": 32, "crop_size": 32, key: None}
    if key == "do_center_crop":
        config["default_to_square"] = True
    image, spec = pictures.scene(57, 43), read(config, image_size=(57, 43))
    mean, std = np.reshape(spec.mean, (3, 1, 1)), np.reshape(spec.std, (3, 1, 1))
    got = (preprocess(image, spec)[0] * spec.rescale - mean) / std
    np.testing.assert_allclose(got, oracle(config)(image)["pixel_values"][0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "CLIPImageProcessorFast",
        "SiglipImageProcessorPil",
        "ViTImageProcessor",
        "BlipImageProcessor",
        "DeiTImageProcessor",
        "BitImageProcessor",
    ],
)
def test_any_processor_that_resizes_cuts_and_normalises_is_read(name: str) -> None:
    """Its defaults are transformers' own, and the answers are held against its own pixels."""
    config = {"image_processor_type": name, "size": {"height": 40, "width": 40}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config))
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    spec, image = read(config), pictures.scene(97, 301)
    mean, std = np.reshape(spec.mean, (3, 1, 1)), np.reshape(spec.std, (3, 1, 1))
    got = (preprocess(image, spec)[0] * spec.rescale - mean) / std
    np.testing.assert_allclose(got, processor(image)["pixel_values"][0], rtol=1e-6, atol=1e-5)


def test_of_two_files_the_one_counts_that_transformers_reads(tmp_path: Path) -> None:
    """A folder saved over with transformers 5: the file of before is left behind."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**CLIP, "size": 64}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**SIGLIP, "size": [24, 40]}}))
    assert picture_rules.from_checkpoint(tmp_path, image_size=(32, 32)) == read({**SIGLIP, "size": [24, 40]})
    (note,) = picture_rules.notes(tmp_path)
    assert note.startswith("pictures: processor_config.json was taken, as transformers does; preprocessor_config.json")
    assert "size" in note
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**SIGLIP, "size": [24, 40]}))
    assert picture_rules.notes(tmp_path) == ()


def test_a_folder_without_a_configuration_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected preprocessor_config.json, .* got no such file"):
        picture_rules.from_checkpoint(tmp_path, image_size=(32, 32))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'"CLIP"', b"null"])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_a_damaged_configuration_of_pictures_is_a_checkpoint_error(content: bytes, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        picture_rules.from_checkpoint(tmp_path, image_size=(32, 32))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "image_processor_type: expected .* such as CLIPImageProcessor"),
        ([], "expected an object, got list"),
        ({"image_processor_type": "HerImageProcessor"}, "HerImageProcessor: expected"),
        ({**CLIP, "auto_map": {"AutoImageProcessor": "a.B"}}, "auto_map: expected .* own code"),
        ({"image_processor_type": "Siglip2ImageProcessor", "size": [64, 64]}, r"Siglip2.*: expected the same pixels"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "shorter side only"),
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}, "pixels that differ by up to"),
        ({"image_processor_type": "LlavaNextImageProcessor", "do_pad": False}, "LlavaNext.*: expected the same pixels"),
        ({**CLIP, "resample": None}, "resample: expected"),
        ({**CLIP, "image_mean": None}, "image_mean: expected a number, got None"),
        ({**CLIP, "size": None}, "size: expected .* got None"),
        ({**SIGLIP, "size": [60_000, 60_000]}, "size: expected .* up to 8192"),
        ({"image_processor_type": ["CLIP"]}, "image_processor_type"),
        ({**CLIP, "do_center_crop": False}, "shorter side only"),
        ({**SIGLIP, "size": 224}, "shorter side only"),
        ({**CLIP, "size": {"longest_edge": 224}}, "size: expected"),
        ({**CLIP, "size": {"shortest_edge": 224, "longest_edge": 400}}, "size: expected"),
        ({**CLIP, "size": {"shortest_edge": -1}}, "size: expected"),
        ({**CLIP, "size": True}, "size: expected"),
        ({**CLIP, "size": "224"}, "expected .* got: ValueError: Could not convert size .* 224"),
        ({**CLIP, "size": [224, 224.5]}, "size: expected"),
        ({**CLIP, "crop_size": {"height": 224}}, "expected .* got: ValueError: crop_size must have .*'height'"),
        ({**SIGLIP, "do_center_crop": True}, "crop_size: expected"),
        ({**CLIP, "resample": 6}, "resample: expected"),
        ({**CLIP, "resample": "bicubic"}, "resample: expected"),
        ({**CLIP, "do_resize": 1}, "do_resize: expected true or false"),
        ({**CLIP, "rescale_factor": 0}, "rescale_factor: expected a positive number"),
        ({**CLIP, "image_mean": [0.5, 0.5]}, "image_mean: expected three numbers"),
        ({**CLIP, "image_mean": [0.5, 0.5, float("nan")]}, "image_mean: expected a number"),
        ({**CLIP, "image_std": [0.5, 0.5, 0]}, "image_std: expected a positive number"),
        ({**CLIP, "do_pad": True, "pad_size": {"height": 300, "width": 300}}, "do_pad"),
    ],
)
def test_a_config_that_cannot_be_followed_says_which_key_and_why(config: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        read(config, image_size=(224, 224))
    assert "preprocessor_config.json: " in caught.value.message
