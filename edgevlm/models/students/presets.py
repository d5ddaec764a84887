"""Students by name."""

from __future__ import annotations

from dataclasses import replace

from edgevlm.errors import InputError
from edgevlm.models.students.config import (
    Cost,
    GridConfig,
    HybridConfig,
    ImageTowerConfig,
    TextTowerConfig,
    VitConfig,
    check_image_tower,
)

PRESETS: dict[str, ImageTowerConfig] = {
    "vit-xxs": VitConfig(image_size=64, patch_size=8, width=64, blocks=2, heads=2),
    "vit-xs": VitConfig(image_size=64, patch_size=8, width=96, blocks=4, heads=3),
    "vit-s": VitConfig(image_size=128, patch_size=16, width=192, blocks=4, heads=6),
    "vit-m": VitConfig(image_size=192, patch_size=16, width=256, blocks=8, heads=4),
    "vit-l": VitConfig(image_size=224, patch_size=16, width=384, blocks=8, heads=6),
    "hybrid-xxs": HybridConfig(image_size=64, widths=(24, 48, 80), depths=(1, 2, 1), heads=4, copies=2),
    "hybrid-xs": HybridConfig(image_size=64, widths=(32, 64, 128), depths=(2, 2, 2), heads=4, copies=2),
    "hybrid-s": HybridConfig(image_size=128, widths=(32, 64, 128, 224), depths=(1, 2, 4, 2), heads=7),
    "hybrid-m": HybridConfig(image_size=192, widths=(48, 96, 192, 352), depths=(2, 2, 6, 3), heads=11),
    "hybrid-l": HybridConfig(image_size=224, widths=(64, 128, 256, 512), depths=(2, 4, 8, 3), heads=8),
    "grid-xxs": GridConfig(64, stem_channels=(16, 32, 64), width=88, blocks=2, heads=4, token_features=12),
    "grid-xs": GridConfig(64, stem_channels=(24, 48, 96), width=128, blocks=2, heads=4, token_features=16),
    "grid-s": GridConfig(64, stem_channels=(32, 64, 128), width=192, blocks=2, heads=4, token_features=24),
    "grid-m": GridConfig(64, stem_channels=(48, 96, 192), width=256, blocks=3, heads=4, token_features=24),
}

COST_DIM = 512
COSTS: dict[str, Cost] = {
    "vit-xxs": Cost(132_800, 7_110_656),
    "vit-xs": Cost(447_264, 27_967_488),
    "vit-s": Cost(1_742_400, 110_198_784),
    "vit-m": Cost(5_632_768, 868_352_000),
    "vit-l": Cost(12_401_280, 2_606_137_344),
    "hybrid-xxs": Cost(150_216, 5_121_536),
    "hybrid-xs": Cost(480_736, 13_906_944),
    "hybrid-s": Cost(1_642_368, 69_506_560),
    "hybrid-m": Cost(5_527_216, 494_421_632),
    "hybrid-l": Cost(12_011_968, 1_559_092_480),
    "grid-xxs": Cost(634_884, 22_054_912),
    "grid-xs": Cost(1_039_656, 46_407_680),
    "grid-s": Cost(1_857_400, 91_619_328),
    "grid-m": Cost(3_478_984, 222_707_712),
}
"""What each takes at its own image size, with embeddings of `COST_DIM` numbers. Written down, since counting loads
torch; a test counts again."""

# Width, blocks, heads.
TEXT_PRESETS: dict[str, tuple[int, int, int]] = {
    "text-xs": (128, 2, 4),
    "text-s": (192, 3, 4),
    "text-m": (320, 6, 5),
}


def preset(name: str, *, image_size: int | None = None) -> ImageTowerConfig:
    """The image tower of that name.

    Args:
        name: One of `PRESETS`.
        image_size: Another height and width of the pixels than the preset's own.

    Raises:
        InputError: no such preset, or a size that its patches or strides do not divide.
    """
    if name not in PRESETS:
        raise InputError(
            f"no student {name!r}: expected one of {', '.join(PRESETS)}", hint="edgevlm models lists what each costs"
        )
    config = PRESETS[name]
    if image_size is not None:
        config = replace(config, image_size=image_size)
        check_image_tower(config, where=name, error=InputError)
    return config


def text_preset(name: str, *, vocabulary_size: int) -> TextTowerConfig:
    """The small text tower of that name, for a tokenizer of that many ids.

    Raises:
        InputError: no such preset.
    """
    if name not in TEXT_PRESETS:
        raise InputError(f"no text tower {name!r}: expected one of {', '.join(TEXT_PRESETS)}")
    width, blocks, heads = TEXT_PRESETS[name]
    return TextTowerConfig(width=width, blocks=blocks, heads=heads, vocabulary_size=vocabulary_size)
