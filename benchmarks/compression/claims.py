"""What int8 is to reach on a CLIP of ViT-B/32's size, fixed before it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgevlm.benchmarks.compression.results import Results

MODEL = "clip-vit-b32"
SESSION = 1.03
"""What a session may cost beside a bare interpreter (`edgevlm.benchmarks.sessions`), which the peers are run by."""


@dataclass(frozen=True)
class Claim:
    """A ratio and the most that it may be.

    Attributes:
        says: What over what, in Markdown.
        limit: The most.
        measure: Finds the ratio; None where something for it has not been measured.
    """

    says: str
    limit: float
    measure: Callable[[Results], float | None]


def cpu(target: str, component: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        int8 = results.find(MODEL, target, "int8")
        return int8.speed[component].cpu_ratio if int8 and component in int8.speed else None

    return measure


def size(target: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        int8, fp32 = (results.find(MODEL, target, recipe) for recipe in ("int8", "fp32"))
        return int8.size_bytes / fp32.size_bytes if int8 and fp32 else None

    return measure


def memory(target: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        int8, fp32 = (results.find(MODEL, target, recipe) for recipe in ("int8", "fp32"))
        return int8.memory.peak_mb / fp32.memory.peak_mb if int8 and fp32 and int8.memory and fp32.memory else None

    return measure


def beside_aeq(results: Results) -> float | None:
    peers = next((each for each in results.peers if each.model == MODEL), None)
    return peers.cpu_ratio("ours, tflite int8", "AI Edge Quantizer int8") if peers else None


CLAIMS = (
    Claim("TFLite, CPU time of `encode_image` / fp32's", 0.20, cpu("tflite", "encode_image")),
    Claim("TFLite, CPU time of `encode_text` / fp32's", 0.20, cpu("tflite", "encode_text")),
    Claim("TFLite, size / fp32's", 0.27, size("tflite")),
    Claim("TFLite, CPU time of `encode_image` / AI Edge Quantizer's dynamic int8", SESSION, beside_aeq),
    Claim("TFLite, peak memory beyond imports / fp32's", 0.35, memory("tflite")),
    Claim("ExecuTorch, CPU time of `encode_image` / fp32's", 0.30, cpu("executorch", "encode_image")),
    Claim("ExecuTorch, CPU time of `encode_text` / fp32's", 0.30, cpu("executorch", "encode_text")),
    Claim("ExecuTorch, size / fp32's", 0.27, size("executorch")),
    Claim("ExecuTorch, peak memory beyond imports / fp32's", 0.35, memory("executorch")),
)
