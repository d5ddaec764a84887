from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgevlm import schema
from edgevlm.benchmarks.checkpoints import write_clip, write_siglip
from edgevlm.benchmarks.compression import __main__ as command
from edgevlm.benchmarks.compression import conversions, report
from edgevlm.benchmarks.compression.claims import CLAIMS, MODEL
from edgevlm.benchmarks.compression.costs import layer_multiply_adds
from edgevlm.benchmarks.compression.results import Contender, Peers, Results, Row, Run, read
from edgevlm.benchmarks.measuring import Times
from edgevlm.errors import InputError
from edgevlm.graphs.outline import outline
from edgevlm.models import catalogue

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = TOWER | {"vocab_size": 128, "max_position_embeddings": 16}
TINY = {
    "projection_dim": 24,
    "text_config": TEXT | {"bos_token_id": 126, "eos_token_id": 127},
    "vision_config": TOWER | {"image_size": 32, "patch_size": 8},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "tiny-clip", TINY)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def rows(model: Path, work: Path) -> dict[str, Row]:
    """int8 and a palette, which TFLite refuses, as the command measures them."""
    return {
        recipe: row
        for recipe in ("int8", "palette-4")
        for row in command.measure_rows(str(model), recipe, ["tflite"], work, 2, "now", lambda stage, share: None)
    }


@pytest.mark.slow
def test_a_row_has_every_figure(rows: dict[str, Row]) -> None:
    figures = rows["int8"].figures
    assert figures is not None
    assert figures.identical == figures.weights == 16  # patches or tokens, six of a block, the projection: twice
    assert figures.compressed_size_bytes < figures.size_bytes
    assert figures.shares["encode_image"]["int8"] > 0.9
    assert figures.shares["encode_image"]["int4"] == 0
    assert set(figures.speed) == set(figures.cosine) == {"encode_image", "encode_text"}
    assert all(0.1 < speed.cpu_ratio < 10 for speed in figures.speed.values())
    assert figures.memory is not None
    assert 0 < figures.memory.peak_mb < figures.memory.imports_mb
    assert min(figures.cosine.values()) > 0.99
    assert not figures.unmeasured


@pytest.mark.slow
def test_a_refused_recipe_is_a_row_with_its_reason(rows: dict[str, Row]) -> None:
    assert rows["palette-4"].figures is None
    assert "palettes" in rows["palette-4"].refused


@pytest.mark.slow
def test_nothing_is_converted_twice(rows: dict[str, Row], model: Path, work: Path) -> None:
    stages: list[str] = []
    for recipe in ("int8", "palette-4"):
        made = conversions.convert(str(model), recipe, ["tflite"], work, lambda stage, share: stages.append(stage))
        assert (made["tflite"].refused, made["tflite"].bundle is None) == (rows[recipe].refused, recipe == "palette-4")
    assert not stages


@pytest.mark.slow
def test_the_page_has_no_empty_cell_and_is_the_same_every_time(rows: dict[str, Row], tmp_path: Path) -> None:
    results = Results().with_run("now", Run("the command", {"processor": "P", "instructions": ["avx512_vnni"]}))
    for row in rows.values():
        results = results.with_row(row)
    results = results.with_peers(Peers("tiny-clip", "now", (Contender("ONNX Runtime int8", "", missing="not there"),)))
    places = report.beside(tmp_path)
    report.write(results, places)
    page, plot = places.page.read_text(), places.plot.read_bytes()
    tables = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(tables) > 12
    assert not [line for line in tables if "|  |" in line]
    assert "TFLite has no palettes" in page
    assert "not there" in page
    report.write(results, places)
    assert (places.page.read_text(), places.plot.read_bytes()) == (page, plot)


@pytest.mark.slow
def test_a_later_run_replaces_its_own_rows_and_forgets_runs_that_measured_nothing_else(rows: dict[str, Row]) -> None:
    results = Results().with_run("now", Run("first", {})).with_row(rows["int8"]).with_row(rows["palette-4"])
    results = results.with_run("later", Run("second", {})).with_row(replace(rows["int8"], run="later"))
    assert [(row.recipe, row.run) for row in results.rows] == [("int8", "later"), ("palette-4", "now")]
    results = results.with_row(replace(rows["palette-4"], run="later"))
    assert set(results.runs) == {"later"}


@pytest.mark.slow
def test_results_are_read_as_they_were_written_and_nothing_else_is(rows: dict[str, Row], tmp_path: Path) -> None:
    results = Results().with_run("now", Run("a command", {"cores": 2})).with_row(rows["int8"])
    path = tmp_path / "compression.json"
    path.write_text(json.dumps(schema.write(results)))
    assert read(path) == results
    assert read(tmp_path / "none.json") == Results()
    path.write_text('{"rows": 3}')
    with pytest.raises(InputError, match="rows"):
        read(path)


@pytest.mark.slow
def test_every_claim_is_told_from_the_figures(rows: dict[str, Row]) -> None:
    row = rows["int8"]
    results = Results()
    for target in ("tflite", "executorch"):
        for recipe in ("fp32", "int8"):
            results = results.with_row(replace(row, model=MODEL, target=target, recipe=recipe))
    encoders = ("ours, tflite int8", "AI Edge Quantizer int8")
    contenders = tuple(Contender(name, name, 1, Times(1.0, 2.0)) for name in encoders)
    results = results.with_peers(Peers(MODEL, "now", contenders))
    assert all(claim.measure(Results()) is None for claim in CLAIMS)
    assert all(claim.measure(results) is not None for claim in CLAIMS)


def test_multiply_adds_of_a_tower_are_those_that_one_counts_by_hand(model: Path) -> None:
    program = catalogue.load(model).programs["encode_text"]
    tokens, width, inner = 16, 32, 64
    # The last block answers for one token alone: its query, output and MLP; keys and values are all tokens'.
    expected = {
        (width, width): 2 * tokens * width**2 + 2 * width**2,
        (inner, width): inner * width,
        (width, inner): inner * width,
        (24, width): 24 * width,
    }
    assert {shape: sum(costs) for shape, costs in layer_multiply_adds(program).items()} == expected
    attention = 2 * tokens * width
    assert outline(program).multiply_adds >= sum(expected.values()) + attention


def test_siglip_is_a_checkpoint_as_well(tmp_path: Path) -> None:
    config = {"text_config": TEXT | {"projection_size": 32}, "vision_config": TINY["vision_config"]}
    assert set(catalogue.load(write_siglip(tmp_path, config)).programs) == {"encode_image", "encode_text"}
