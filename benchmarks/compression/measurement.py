"""From bundles to rows: what the manifests and files say, and what fresh processes measure."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from edgevlm import schema
from edgevlm.benchmarks.compression.costs import integer_shares
from edgevlm.benchmarks.compression.results import Figures, Memory, Speed
from edgevlm.benchmarks.measuring import in_fresh_process
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import ParityReport
from edgevlm.errors import BundleError
from edgevlm.graphs.program import Program
from edgevlm.targets import registry

PACKAGE = "edgevlm.benchmarks.compression"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_NO_DEVICE = "evaluated op by op off Apple, which measures no device"


def measure(bundle: Bundle, fp32: Bundle | None, programs: Mapping[str, Program], rounds: int) -> Figures:
    """All figures of one bundle.

    Args:
        bundle: Which.
        fp32: The same model and target uncompressed, for times to compare with; None where that was refused.
        programs: The float model's.
        rounds: How often each component is timed.
    """
    manifest, parity = bundle.manifest, bundle.manifest.parity
    if parity is None or manifest.compressed_size_bytes is None:
        raise BundleError(f"{bundle.path}: expected parity and a compressed size in the manifest", hint="convert again")
    stored = registry.runtime(manifest.target).stored_weights(bundle)
    unmeasured = _why_unmeasured(manifest.target, fp32)
    return Figures(
        size_bytes=bundle.artefact_bytes,
        compressed_size_bytes=manifest.compressed_size_bytes,
        weights=sum(proof.decided for proof in manifest.weights),
        identical=sum(proof.identical for proof in manifest.weights),
        shares={name: integer_shares(program, stored[name]) for name, program in programs.items()},
        cosine=_checks(parity, "min_cosine"),
        centred_cosine=_checks(parity, "centred_cosine"),
        zero_shot=_checks(parity, "top1_agreement")["zero-shot"],
        beyond_limits=tuple(
            f"{check.component} {check.measure} {check.value:.3g}, allowed {check.limit:g}"
            for check in parity.checks
            if not check.passed and check.limit is not None
        ),
        speed={} if unmeasured or fp32 is None else measure_speed(bundle, fp32, rounds),
        memory=None if unmeasured else measure_memory(bundle),
        unmeasured=unmeasured,
    )


def measure_speed(bundle: Bundle, fp32: Bundle, rounds: int) -> dict[str, Speed]:
    """Each component's times beside fp32's, in a fresh process."""
    found = in_fresh_process(f"{PACKAGE}.speed", str(fp32.path), str(bundle.path), str(rounds), environment=ONE_THREAD)
    return {
        name: schema.read(Speed, times, where=f"{PACKAGE}.speed", error=BundleError) for name, times in found.items()
    }


def measure_memory(bundle: Bundle) -> Memory:
    """In a fresh process."""
    found = in_fresh_process(f"{PACKAGE}.memory", str(bundle.path), environment=ONE_THREAD)
    return schema.read(Memory, found, where=f"{PACKAGE}.memory", error=BundleError)


def _why_unmeasured(target: str, fp32: Bundle | None) -> str:
    if target == "coreml":
        return _NO_DEVICE
    if fp32 is None:
        return "there is no fp32 bundle to compare with"
    return "" if sys.platform == "linux" else "measured on Linux only, where /proc tells a process's memory"


def _checks(parity: ParityReport, measure: str) -> dict[str, float]:
    return {check.component: check.value for check in parity.checks if check.measure == measure}
