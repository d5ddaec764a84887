"""The seam to the backends: what a target of one's own imports, besides `edgevlm.bundle`.

`converter` says what lowers a model, `runtime` what opens and runs the result, `inspection` what can be told of it;
`boundary` checks inputs, and `registry` knows which targets there are. examples/custom_target.py is a whole target.
"""

from __future__ import annotations

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.spec import F32, Array
from edgevlm.graphs.program import Program, Programs
from edgevlm.process.progress import Progress, silent
from edgevlm.targets.boundary import find_component, validate_inputs, validate_threads
from edgevlm.targets.converter import (
    BundleFile,
    Converter,
    Describer,
    Footprint,
    Forecaster,
    OpRange,
    Unsupported,
    Verdict,
)
from edgevlm.targets.inspection import (
    Addressee,
    Advice,
    AdviceKind,
    Adviser,
    Evaluator,
    OpCount,
    OpCoverage,
    Package,
    PackageFunction,
    PackageReader,
    PackageValue,
)
from edgevlm.targets.runtime import Closing, Runtime, SerialSession, Session, State, TracedOp

__all__ = [
    "F32",
    "Addressee",
    "Advice",
    "AdviceKind",
    "Adviser",
    "Array",
    "BundleFile",
    "Closing",
    "Converter",
    "Describer",
    "Evaluator",
    "Footprint",
    "Forecaster",
    "OpCount",
    "OpCoverage",
    "OpRange",
    "Package",
    "PackageFunction",
    "PackageReader",
    "PackageValue",
    "Program",
    "Programs",
    "Progress",
    "Runtime",
    "SerialSession",
    "Session",
    "State",
    "StoredWeight",
    "TracedOp",
    "Unsupported",
    "Verdict",
    "find_component",
    "silent",
    "validate_inputs",
    "validate_threads",
]
