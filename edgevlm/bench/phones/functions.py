"""What a phone's runner runs: a function of a file; of a model that talks, of one of the models in its container.

`benchmark_model` opens models and no containers, so that those of a `.litertlm` are sent one by one. It draws the
inputs, positions from 0 to 99, and no run goes on from the one before. A token's graph looks at the whole context
wherever it stands: at several fills the same work is timed. Of a prompt, the longest chunk is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import DECODE, ENCODE_IMAGE
from edgevlm.errors import DeviceError
from edgevlm.graphs.program import function_name
from edgevlm.onboard.answers import PROMPT
from edgevlm.targets import litert_lm

_LAST_DRAWN = 99
"""The last position that `benchmark_model` draws: tensorflow/lite/tools/utils.cc, `GetDataRangesForType`."""


@dataclass(frozen=True)
class Function:
    """One function of one file.

    Attributes:
        file: On this computer.
        name: What the file calls it.
        positions: Of a model's context that one run takes; None where there are none.
    """

    file: Path
    name: str
    positions: int | None = None


def function(bundle: Bundle, component: str, scratch: Path) -> Function:
    """What is run of a component, or of a part of an answer; see `edgevlm.onboard.answers.parts`.

    Args:
        bundle: Whose; one that talks is for TFLite.
        component: Its name, or the part's.
        scratch: A folder for the models that are taken out of a container.

    Raises:
        DeviceError: the context is too short for the positions that are drawn.
    """
    dialogue = bundle.manifest.dialogue
    if dialogue is None:
        return Function(bundle.path / bundle.components[component].file, component)
    decode = bundle.components[DECODE]
    container = bundle.path / decode.file
    if component == ENCODE_IMAGE:
        return Function(_taken_out(container, litert_lm.VISION_ENCODER, scratch), litert_lm.VISION_ENCODER)
    positions = decode.spec.lengths[-1] if component == PROMPT else 1
    least = _LAST_DRAWN + positions
    if dialogue.context_length < least:
        raise DeviceError(
            f"benchmark_model draws positions up to {_LAST_DRAWN}, and {component} takes {positions} from there: "
            f"expected a context of {least} or more, got {dialogue.context_length}",
            hint=f"edgevlm convert --context {least}",
        )
    name = function_name(DECODE, positions, decode.spec.lengths)
    return Function(_taken_out(container, litert_lm.DECODER, scratch), name, positions)


def _taken_out(container: Path, model: str, scratch: Path) -> Path:
    """A model of a container as a file, written once."""
    out = scratch / f"{container.parent.stem}-{model}.tflite"
    if not out.exists():
        out.write_bytes(litert_lm.unpack(container)[model])
    return out
