"""How a checkpoint's pictures become pixels: read by transformers, said in the manifest's numbers, and held against it.

transformers' image processor of the folder is the reference. What the manifest has no word for is refused, and so is a
processor whose pixels differ from a device's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.dialogue import MOST_TILES, Grid, Tiling
from edgevlm.bundle.spec import ImagePreprocessing, Resample
from edgevlm.errors import CheckpointError, InputError
from edgevlm.inputs.pictures import resize_and_crop
from edgevlm.inputs.tiles import cut
from edgevlm.models.checkpoints.files import read_json, refuse_own_code
from edgevlm.process.quiet import quiet

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

_FILES = ("preprocessor_config.json", "processor_config.json")

# Pillow's numbering, which is also that of `resample` in preprocessor_config.json.
_RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

# A picture of more would pass Pillow's limit on pixels.
_LONGEST_SIDE = 8192
_LARGEST_NUMBER = 1e30
_USUAL_SIDE = 448
"""Of pictures that may have any size, in pixels."""

_SAME = 0.01
"""Of a grey level: float32 is far closer, and any other arithmetic far off."""

# (height, width) in pixels: one picture taller than wide, one wider than tall, no side a multiple of the other.
_COMPARED_SIZES = ((97, 64), (41, 75))


def from_checkpoint(folder: Path, *, image_size: tuple[int, int], patch_size: int = 1) -> ImagePreprocessing:
    """Reads a checkpoint's `preprocessor_config.json`, or the `processor_config.json` that nests it.

    Which file counts, what missing and null keys mean, and which processor a name stands for is transformers' word.
    `do_convert_rgb` is not looked at: the networks take three channels, so a device always decodes to three.

    Args:
        folder: The checkpoint.
        image_size: (height, width) in pixels that the network was trained with. Used only where the config neither
            resizes nor crops: elsewhere the config's own final size counts, since CLIP's positions can be interpolated.
        patch_size: Pixels of a side of what the network looks at in one piece.

    Raises:
        CheckpointError: no such file; one that is damaged, names no processor or needs the checkpoint's own code; a
            value of the wrong type or range; a config that leaves the size of the pixels to the picture; pictures
            smaller than a patch; or a processor that does something else to a picture than a device would.
    """
    where, config = _find_config(folder)
    processor = _open(folder, config, where)
    rules = _read_rules(processor, image_size, where)
    if min(rules.height, rules.width) < patch_size:
        raise CheckpointError(
            f"{where}: expected pictures of at least one patch, {patch_size} pixels a side, got {rules.height} x "
            f"{rules.width}",
            hint="copy the file from the original checkpoint: the network takes pictures of "
            f"{image_size[0]} x {image_size[1]}",
        )
    _compare(processor, rules, where)
    return rules


def tiles_from_checkpoint(folder: Path) -> tuple[ImagePreprocessing, Tiling]:
    """The same of a checkpoint whose pictures are cut into tiles: how a tile becomes pixels, and how tiles are cut.

    Raises:
        CheckpointError: see `from_checkpoint`.
    """
    where, config = _find_config(folder)
    processor = _open(folder, config, where)
    size, tile = (_given(getattr(processor, key, None)) for key in ("size", "max_image_size"))
    for key, found in (("size", size), ("max_image_size", tile)):
        if set(found) != {"longest_edge"} or not _is_length(found["longest_edge"]):
            raise CheckpointError(
                f'{where}: {key}: expected {{"longest_edge": N}} in whole pixels up to {_LONGEST_SIDE}, got '
                f"{found or None}"
            )
    if not _flag(processor, "do_resize", where):
        raise CheckpointError(f"{where}: do_resize: expected true, got false")
    side, cuts = int(tile["longest_edge"]), _flag(processor, "do_image_splitting", where)
    rules = replace(
        _of_pixels(processor, where, side, side), resample=_resample(getattr(processor, "resample", None), where)
    )
    tiling = Tiling(int(size["longest_edge"]), side, rules.resample, cuts)
    _compare_tiles(processor, rules, tiling, where)
    return rules, tiling


def grids_from_checkpoint(folder: Path) -> tuple[ImagePreprocessing, Tiling]:
    """The same of a checkpoint whose pictures are scaled to grids of tiles, as InternVL's processor asks for.

    Raises:
        CheckpointError: see `from_checkpoint`.
    """
    where, config = _find_config(folder)
    processor = _open(folder, config, where)
    height, width = _height_and_width(getattr(processor, "size", None), "size", where, also="nothing else")
    least, most = (getattr(processor, key, None) for key in ("min_patches", "max_patches"))
    if height != width or not _is_length(least) or not _is_length(most) or not least <= most <= MOST_TILES:
        raise CheckpointError(
            f"{where}: expected square tiles, and min_patches and max_patches from 1 to {MOST_TILES}, got {height} x "
            f"{width} pixels, {least!r} and {most!r}"
        )
    if not _flag(processor, "do_resize", where):
        raise CheckpointError(f"{where}: do_resize: expected true, got false")
    rules = replace(
        _of_pixels(processor, where, height, width), resample=_resample(getattr(processor, "resample", None), where)
    )
    tiling = Tiling(most * height, height, rules.resample, grid=Grid(least, most))
    _compare_tiles(processor, rules, tiling, where)
    return rules, tiling


def sized_from_checkpoint(
    folder: Path, size: tuple[int, int] | None, *, patch_size: int, merge_size: int, window_size: int = 0
) -> ImagePreprocessing:
    """The same of a checkpoint whose pictures keep their proportions and their size, as far as patches allow.

    Here all are scaled to one size, whatever their proportions. It is held against transformers with pictures of that
    size's proportions, for which its processor chooses the same.

    Args:
        folder: The checkpoint.
        size: (height, width) in pixels; a square of about 448, or of as many as the processor allows, where None.
        patch_size, merge_size: The network's: pixels of a patch's side, and patches of a side that become one row.
        window_size: Pixels of the side of a window whose patches see each other alone; 0 where there are none. Only
            sizes of whole windows are taken, which need no mask.

    Raises:
        CheckpointError: see `from_checkpoint`; or a processor that has other patches than the network.
        InputError: a size that squares of patches, or windows, do not divide.
    """
    where, config = _find_config(folder)
    processor = _open(folder, config, where)
    for key, own in (("patch_size", patch_size), ("merge_size", merge_size)):
        if getattr(processor, key, None) != own:
            raise CheckpointError(
                f"{where}: {key}: expected {own}, as config.json has, got {getattr(processor, key, None)!r}"
            )
    if not _flag(processor, "do_resize", where):
        raise CheckpointError(f"{where}: do_resize: expected true, got false")
    square = patch_size * merge_size
    square = max(window_size // square, 1) * square
    most = _given(getattr(processor, "size", None)).get("longest_edge")  # which is a number of pixels here
    side = min(_USUAL_SIDE, math.isqrt(most)) if _is_whole(most) else _USUAL_SIDE
    height, width = size or (max(side // square, 1) * square,) * 2
    if not all(0 < side <= _LONGEST_SIDE and side % square == 0 for side in (height, width)):
        raise InputError(
            f"expected a size of pictures in multiples of {square} pixels up to {_LONGEST_SIDE:,}, got {height} x "
            f"{width}",
            hint=f"--picture-size {max(height // square, 1) * square}x{max(width // square, 1) * square}",
        )
    resample = _resample(getattr(processor, "resample", None), where)
    rules = replace(
        _of_pixels(processor, where, height, width),
        resize="exact", resize_height=height, resize_width=width, resample=resample,
    )  # fmt: skip
    _compare_patches(processor, rules, where, patch_size, merge_size)
    return rules


def one_size_from_checkpoint(
    folder: Path, size: tuple[int, int] | None, *, sizes: Sequence[Sequence[int]], tile: int
) -> ImagePreprocessing:
    """The same of a checkpoint whose pictures are scaled to one of several sizes, for which its processor cuts them.

    Here all are scaled to one of them, whatever their proportions. It is held against transformers with pictures of
    that very size: the whole, as small as a tile, and the tiles, row by row.

    Args:
        folder: The checkpoint.
        size: (height, width) in pixels; where None, a square one of two tiles a side, or the first.
        sizes: That there are, multiples of a tile.
        tile: Pixels of a tile's side.

    Raises:
        CheckpointError: see `from_checkpoint`.
        InputError: a size that there is not.
    """
    where, config = _find_config(folder)
    processor = _open(folder, config, where)
    known = [(int(height), int(width)) for height, width in sizes]
    named = [tuple(each) for each in getattr(processor, "image_grid_pinpoints", None) or ()]
    if not known or named != known or any(side % tile or side > _LONGEST_SIDE for each in known for side in each):
        raise CheckpointError(
            f"{where}: image_grid_pinpoints: expected sizes in multiples of {tile} pixels, the same as in config.json, "
            f"{known}, got {named}"
        )
    height, width = size or next((each for each in known if each == (2 * tile, 2 * tile)), known[0])
    if (height, width) not in known:
        shown = ", ".join(f"{high}x{wide}" for high, wide in known)
        raise InputError(
            f"expected one of the sizes of pictures that this model was trained with, {shown}, got {height}x{width}",
            hint=f"--picture-size {known[0][0]}x{known[0][1]}",
        )
    rules = replace(
        _of_pixels(processor, where, height, width),
        resize="exact", resize_height=height, resize_width=width,
        resample=_resample(getattr(processor, "resample", None), where),
    )  # fmt: skip
    picture = _noise(height, width)
    pixels = np.asarray(picture, np.float32).reshape(height // tile, tile, width // tile, tile, 3)
    whole = np.asarray(picture.resize((tile, tile), Image.Resampling[rules.resample.upper()]), np.float32)
    tiles = pixels.transpose(0, 2, 4, 1, 3).reshape(-1, 3, tile, tile)
    tiles = np.concatenate([whole.transpose(2, 0, 1)[None], tiles])
    if not _grey_levels_off(_ask(processor, picture, where), tiles, rules) < _SAME:
        raise CheckpointError(
            f"{where}: {_called(processor)}: expected the same tiles from transformers as on a device, of a picture of "
            f"{height} x {width}",
            hint="this processor does more than to scale, cut, rescale and normalise, which a bundle cannot carry",
        )
    return rules


def find_files(folder: Path) -> tuple[str, ...]:
    """The files of a checkpoint that say how pictures are resized.

    Raises:
        CheckpointError: there is none.
    """
    found = tuple(name for name in _FILES if (folder / name).is_file())
    if not found:
        raise CheckpointError(
            f"{folder}: expected preprocessor_config.json, which says how pictures are resized, got no such file",
            hint="copy it from the original checkpoint: without it the pixels would be guessed",
        )
    return found


def notes(folder: Path) -> tuple[str, ...]:
    """Which file was taken, where two say different things of pictures: the newer of transformers' two names."""
    if len(find_files(folder)) < 2:
        return ()
    older, newer = (read_json(folder / name) for name in _FILES)
    nested = newer.get("image_processor")
    if not isinstance(nested, Mapping) or all(older.get(key) == value for key, value in nested.items()):
        return ()
    differing = ", ".join(key for key, value in nested.items() if older.get(key) != value)
    return (f"pictures: {_FILES[1]} was taken, as transformers does; {_FILES[0]} differs in {differing}",)


def _find_config(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """The configuration that transformers will take, and the name of its place for errors."""
    from transformers import ImageProcessingMixin

    names = " and ".join(find_files(folder))
    where = str(folder / names) if " and " not in names else f"{folder}: {names}"
    try:
        with quiet():
            config, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
    except Exception as error:  # of many kinds, all about the files
        raise CheckpointError(
            f"{where}: expected a configuration of pictures that transformers reads, got: {_in_one_line(error)}",
            hint="download it again",
        ) from error
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{where}: expected an object, got {type(config).__name__}")
    return where, config


def _open(folder: Path, config: Mapping[str, Any], where: str) -> BaseImageProcessor:
    """transformers' own processor, on Pillow."""
    from transformers import AutoImageProcessor

    hint = "if one of transformers' processors does the same, name it as image_processor_type instead"
    refuse_own_code(where, config, kind="image processors", hint=hint)
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{where}: image_processor_type: expected the name of one of transformers' image processors, such as "
            f"CLIPImageProcessor or SiglipImageProcessor, got {name!r}",
            hint="copy the file from the original checkpoint: without the name the missing values would be guessed",
        )
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # of many kinds, all about the configuration
        raise CheckpointError(
            f"{where}: {name}: expected a configuration that transformers' image processor takes, got: "
            f"{_in_one_line(error)}",
            hint="copy the file from the original checkpoint, or correct what it names",
        ) from error


def _read_rules(processor: BaseImageProcessor, image_size: tuple[int, int], where: str) -> ImagePreprocessing:
    values = {name: getattr(processor, name, None) for name in ("size", "crop_size", "resample")}
    pads, padded = getattr(processor, "do_pad", None), _given(getattr(processor, "pad_size", None))
    if pads and padded:  # without a size it fills up what is smaller than others beside it, of which there are none
        raise CheckpointError(f"{where}: do_pad: expected false or nothing beside pad_size, got {pads!r}")
    resize: Literal["shortest_edge", "exact", "none"] = "none"
    resize_height, resize_width = 0, 0
    if _flag(processor, "do_resize", where):
        resize, resize_height, resize_width = _resize_rule(values["size"], where)
    centre_crop = _flag(processor, "do_center_crop", where)
    if centre_crop:
        height, width = _height_and_width(values["crop_size"], "crop_size", where, also="a number")
    elif resize == "shortest_edge":
        raise CheckpointError(
            f"{where}: size sets the shorter side only and do_center_crop is off, so that every picture has another "
            "size: expected one size for all",
            hint='set do_center_crop and crop_size, or give size as {"height": H, "width": W}',
        )
    else:
        height, width = (resize_height, resize_width) if resize == "exact" else image_size
    return replace(
        _of_pixels(processor, where, height, width),
        resize=resize,
        resize_height=resize_height,
        resize_width=resize_width,
        resample=_resample(values["resample"], where),
        centre_crop=centre_crop,
    )


def _of_pixels(processor: BaseImageProcessor, where: str, height: int, width: int) -> ImagePreprocessing:
    """What becomes of pixels of that size, which are taken as they are."""
    normalise = _flag(processor, "do_normalize", where)
    rescale = getattr(processor, "rescale_factor", None)
    return ImagePreprocessing(
        height=height,
        width=width,
        resize="none",
        resize_height=0,
        resize_width=0,
        resample="bilinear",
        centre_crop=False,
        rescale=_number(rescale, "rescale_factor", where, positive=True)
        if _flag(processor, "do_rescale", where)
        else 1.0,
        mean=_channels(processor, "image_mean", where) if normalise else (0.0, 0.0, 0.0),
        std=_channels(processor, "image_std", where, positive=True) if normalise else (1.0, 1.0, 1.0),
    )


def _resize_rule(size: Any, where: str) -> tuple[Literal["shortest_edge", "exact"], int, int]:
    given = _given(size)
    if set(given) == {"shortest_edge"} and _is_length(given["shortest_edge"]):
        return "shortest_edge", given["shortest_edge"], given["shortest_edge"]
    return "exact", *_height_and_width(size, "size", where, also='a number or {"shortest_edge": N}')


def _height_and_width(size: Any, key: str, where: str, *, also: str) -> tuple[int, int]:
    given = _given(size)
    if set(given) == {"height", "width"} and all(map(_is_length, given.values())):
        return given["height"], given["width"]
    raise CheckpointError(
        f'{where}: {key}: expected {{"height": H, "width": W}} in whole pixels up to {_LONGEST_SIDE}, or {also}, '
        f"got {given or None}"
    )


def _given(size: Any) -> dict[str, Any]:
    """The keys of a `SizeDict` that are set."""
    try:
        return {} if size is None else {key: value for key, value in dict(size).items() if value is not None}
    except (TypeError, ValueError):
        raise CheckpointError(f"expected a size such as {{'height': 224, 'width': 224}}, got {size!r}") from None


def _is_length(value: Any) -> TypeGuard[int]:
    return _is_whole(value) and value <= _LONGEST_SIDE


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _resample(value: Any, where: str) -> Resample:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_RESAMPLES):
        return _RESAMPLES[value]
    names = ", ".join(f"{number} ({name})" for number, name in enumerate(_RESAMPLES))
    raise CheckpointError(f"{where}: resample: expected one of {names}, got {value!r}")


def _flag(processor: BaseImageProcessor, key: str, where: str) -> bool:
    value = getattr(processor, key, None)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: {key}: expected true or false, got {value!r}")
    return value


def _number(value: Any, key: str, where: str, *, positive: bool) -> float:
    # transformers reads integers of any length, of which numpy and floats know none.
    ok = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER
    if not ok or (positive and value <= 0):
        raise CheckpointError(f"{where}: {key}: expected a {'positive ' if positive else ''}number, got {value!r}")
    return float(value)


def _channels(
    processor: BaseImageProcessor, key: str, where: str, *, positive: bool = False
) -> tuple[float, float, float]:
    value = getattr(processor, key, None)
    values = value if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise CheckpointError(f"{where}: {key}: expected three numbers, for R, G and B, got {value!r}")
    red, green, blue = (_number(channel, key, where, positive=positive) for channel in values)
    return red, green, blue


def _compare(processor: BaseImageProcessor, rules: ImagePreprocessing, where: str) -> None:
    """Refuses a processor that gives other pixels than the rules do, as one that cuts into tiles would."""
    sizes = _COMPARED_SIZES if rules.resize != "none" or rules.centre_crop else ((rules.height, rules.width),)
    for height, width in sizes:
        picture = _noise(height, width)
        expected = _ask(processor, picture, where)
        pixels = resize_and_crop(picture, rules).transpose(2, 0, 1)
        off = _grey_levels_off(expected, pixels, rules)
        if off < _SAME:
            continue
        found = f"pixels that differ by up to {off:.3g} of 255 grey levels"
        if expected.shape != pixels.shape:
            found = f"pixels of shape {list(expected.shape)}, and {list(pixels.shape)} on a device"
        raise CheckpointError(
            f"{where}: {_called(processor)}: expected the same pixels from transformers as "
            f"on a device, which resizes, cuts from the middle, rescales and normalises; a picture of {height} x "
            f"{width} has {found}",
            hint="this processor does more than that, which a bundle cannot carry",
        )


def _compare_tiles(processor: BaseImageProcessor, rules: ImagePreprocessing, tiling: Tiling, where: str) -> None:
    """Refuses a processor that cuts other tiles than the rules do, or makes other pixels of them."""
    # Of a grid, the processor of words and pictures asks it so, whatever its own configuration says.
    options = {} if tiling.grid is None else {"crop_to_patches": True}
    for height, width in _COMPARED_SIZES:
        picture = _noise(height, width)
        expected, tiles = _ask(processor, picture, where, **options), cut(picture, tiling).pixels
        expected = expected.reshape(-1, *expected.shape[-3:])
        if _grey_levels_off(expected, tiles, rules) < _SAME:
            continue
        raise CheckpointError(
            f"{where}: {_called(processor)}: expected the same tiles from transformers as on "
            f"a device; a picture of {height} x {width} has {list(expected.shape)} there and {list(tiles.shape)} here",
            hint="this processor does more than to scale, cut, rescale and normalise, which a bundle cannot carry",
        )


def _compare_patches(
    processor: BaseImageProcessor, rules: ImagePreprocessing, where: str, patch: int, merge: int
) -> None:
    """Refuses a processor that makes other patches than the rules do, of pictures of their size's proportions."""
    pixels_asked_for = rules.height * rules.width
    asked = {"shortest_edge": pixels_asked_for, "longest_edge": pixels_asked_for}
    squares = rules.height // patch // merge, rules.width // patch // merge
    for share in (0.5, 1.5):
        picture = _noise(int(share * rules.height), int(share * rules.width))
        found = _ask(processor, picture, where, size=asked)
        pixels = resize_and_crop(picture, rules).transpose(2, 0, 1)
        same = found.size % pixels.size == 0 and found.shape[0] == squares[0] * squares[1] * merge**2
        if same:
            frames = found.reshape(*squares, merge, merge, 3, -1, patch, patch).transpose(5, 4, 0, 2, 6, 1, 3, 7)
            same = all(_grey_levels_off(each, pixels, rules) < _SAME for each in frames.reshape(-1, *pixels.shape))
        if not same:
            raise CheckpointError(
                f"{where}: {_called(processor)}: expected the same patches from transformers "
                f"as on a device, which scales, cuts, rescales and normalises; a picture of {picture.height} x "
                f"{picture.width} has others",
                hint="this processor does more than that, which a bundle cannot carry",
            )


def _grey_levels_off(expected: NDArray[Any], pixels: NDArray[Any], rules: ImagePreprocessing) -> float:
    """How far pixels in 0..255 are from a processor's at most, once normalised; infinitely if of other shapes."""
    if expected.shape != pixels.shape:
        return math.inf
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (rules.mean, rules.std))
    return float(np.max(np.abs((pixels * rules.rescale - mean) / std - expected) * std / rules.rescale))


def _called(processor: BaseImageProcessor) -> str:
    """What checkpoints call it."""
    return type(processor).__name__.removesuffix("Pil")


def _ask(processor: BaseImageProcessor, picture: Image.Image, where: str, **options: Any) -> NDArray[Any]:
    try:
        with quiet():
            found: Any = processor(picture, **options)
            found = found if isinstance(found, list) else found["pixel_values"]  # Idefics' gives the values alone
            return np.asarray(found if options else found[0])
    except Exception as error:  # of many kinds
        raise CheckpointError(
            f"{where}: expected values that {_called(processor)} follows, got: {_in_one_line(error)}",
            hint="copy the file from the original checkpoint",
        ) from error


def _noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
