"""What a component keeps from run to run on Core ML: in float16 the package keeps it, in float32 it goes in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.converters.coreml.converter import CoreMLConverter
from edgevlm.errors import BundleError
from edgevlm.graphs.program import Program, functions, unrolled
from edgevlm.runtimes.coreml import CoreMLRuntime
from edgevlm.runtimes.mlprogram.evaluator import MLProgram

ROWS = TensorSpec("rows", "float32", (1, -1, 3), "rows to be added")
TOTAL = TensorSpec("total", "float32", (1, 3), "the sum of all rows")
HALF = TensorSpec("half", "float32", (1, 3), "half of it")
SPEC = ComponentSpec("add", (ROWS,), (HALF,), lengths=(1, 2), state=(TOTAL,))


class Add(nn.Module):
    def forward(self, rows: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        total = total + rows.sum(1)
        return total / 2, total


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("states")
    recipe = BUILTIN[request.param]
    program = Program(SPEC, Add().eval(), (torch.ones(1, 2, 3), torch.zeros(1, 3)))
    arranged = unrolled({"add": program})
    (file,) = CoreMLConverter().lower(arranged, recipe, folder)
    names = {str(length): name for length, name in functions(arranged)["add"].items()}
    found = {"add": BundledComponent(SPEC, file.path, functions=names)}
    return bundle_for_tests(folder, found, target="coreml", recipe=recipe, requires=dict(file.requires))


def test_functions_of_a_package_share_a_state_and_dialogues_do_not(bundle: Bundle) -> None:
    one, two = (np.arange(3 * length, dtype=np.float32).reshape(1, length, 3) for length in (1, 2))
    with CoreMLRuntime().open(bundle) as session:
        state, other = session.make_state("add"), session.make_state("add")
        answers = [session.run("add", {"rows": rows}, state)["half"].tolist() for rows in (two, one, two)]
        assert answers == [[[1.5, 2.5, 3.5]], [[1.5, 3, 4.5]], [[3, 5.5, 8]]]
        assert session.run("add", {"rows": one}, other)["half"].tolist() == [[0, 0.5, 1]]


def test_float16_is_kept_by_the_package_and_float32_goes_in_and_out(bundle: Bundle) -> None:
    kept = bundle.manifest.recipe.precision == "fp16"
    for function in ("add_1", "add_2"):
        program = MLProgram.open(bundle.path / "add.mlpackage", function=function)
        assert [feature.name for feature in program.inputs] == ["rows"] + ["total"] * (not kept)
        assert [feature.name for feature in program.outputs] == ["half"] + ["total_written"] * (not kept)
        assert [(feature.name, feature.dtype) for feature in program.states] == [("total", "fp16")] * kept
    assert bundle.manifest.requires["iOS"] == "18"


def test_a_package_that_keeps_something_else_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = ComponentSpec("add", (ROWS,), (HALF,), lengths=(1, 2), state=(TensorSpec("sum", "float32", (1, 3), ""),))
    found = {"add": BundledComponent(other, "add.mlpackage", functions=bundle.components["add"].functions)}
    (tmp_path / "add.mlpackage").symlink_to(bundle.path / "add.mlpackage")
    changed = bundle_for_tests(tmp_path, found, target="coreml", recipe=bundle.manifest.recipe)
    with pytest.raises(BundleError, match=r"the manifest says that add_1 has the \w+ .*sum.*, the package has .*total"):
        CoreMLRuntime().open(changed)
