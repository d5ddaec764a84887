from __future__ import annotations

from pathlib import Path

import pytest

from edgevlm import schema
from edgevlm.distillation.losses import LOSSES, Term
from edgevlm.distillation.recipe import BUILTIN, Augmentation, DistillRecipe, LossTerm, Schedule, builtin, resolve
from edgevlm.errors import RecipeError


def test_the_papers_recipes_ship_with_losses_that_exist() -> None:
    recipes = builtin()
    assert (
        tuple(recipe.name for recipe in recipes)
        == BUILTIN
        == ("ood", "tinyclip", "clip-kd", "mobileclip", "recovery", "labels-only")
    )
    for recipe in recipes:
        assert recipe.summary
        for each in recipe.losses:
            Term(each.loss, each.weight, each.options)
            assert each.loss in LOSSES
    ood = resolve("ood")
    assert [each.loss for each in ood.losses] == ["classification", "feature_mse", "image_contrastive", "proximity"]
    assert all(each.weight == 1 for each in ood.losses)
    assert all(each.options.get("temperature", 0.07) == 0.07 for each in ood.losses)
    assert ood.losses[-1].options["k"] == 256


def test_the_example_shows_every_key_and_the_defaults() -> None:
    path = Path(__file__).parent.parent / "examples" / "recipe.yaml"
    recipe = resolve(path)
    assert recipe == DistillRecipe(recipe.name, recipe.losses, recipe.summary)
    written = schema.read_yaml(path, error=RecipeError)
    kept = schema.write(recipe)
    assert {key: set(value) for key, value in written.items() if isinstance(value, dict)} == {
        key: set(value) for key, value in kept.items() if isinstance(value, dict)
    }
    assert written.keys() == kept.keys()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "0.001", "+1.0e-03"])
def test_a_number_is_written_as_people_write_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"losses: [{{loss: clip}}]\nschedule: {{learning_rate: {text}}}")
    assert resolve(path).schedule.learning_rate == 0.001
    path.write_text("name: 1e-3x\nlosses: [{loss: clip}]")
    assert resolve(path).name == "1e-3x"


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("losses:\n- {loss: feature_mse, weight: 2}\nschedule: {epochs: 3}\naugmentation: {stored: 4}\n")
    recipe = resolve(path)
    assert recipe.name == "mine"
    assert recipe.losses == (LossTerm("feature_mse", 2.0),)
    assert recipe.schedule == Schedule(epochs=3)
    assert recipe.augmentation == Augmentation(stored=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("losses: [", "not a readable YAML file"),
        ("- ood", "expected a mapping of keys"),
        ("name: x", "losses"),
        ("losses: []", "losses: expected at least one loss"),
        ("losses: [{loss: clip, wieght: 1}]", r"losses.*wieght"),
        ("losses: [{loss: clip, weight: heavy}]", r"losses.*weight"),
        ("losses: [{loss: clip}]\nschedule: {epochs: 0}", r"schedule\.epochs: expected 1 to 1,000,000, got 0"),
        (
            "losses: [{loss: clip}]\nschedule: {epochs: 1000001}",
            r"schedule\.epochs: expected 1 to 1,000,000, got 10",
        ),
        ("losses: [{loss: clip}]\nschedule: {epochs: 1.5}", r"schedule\.epochs"),
        ("losses: [{loss: clip}]\nschedule: {lr: 1}", r"schedule.*lr"),
        ("losses: [{loss: clip}]\nschedule: {batch_size: 1}", r"schedule\.batch_size: expected 2 to 1,000,000"),
        ("losses: [{loss: clip}]\nschedule: {learning_rate: 0}", r"schedule\.learning_rate: expected a number above 0"),
        (
            "losses: [{loss: clip}]\nschedule: {learning_rate: .inf}",
            r"schedule\.learning_rate: expected a finite number, got inf",
        ),
        ("losses: [{loss: clip}]\nschedule: {gradient_clip: .nan}", r"schedule\.gradient_clip: expected a finite"),
        ("losses: [{loss: clip, weight: 0}]", r"losses: expected at least one loss with a weight above 0"),
        ("losses: [{loss: clip}]\nschedule: {warmup: 1}", r"schedule\.warmup: expected a share"),
        (
            "losses: [{loss: clip}]\naugmentation: {crop_scale: [0.9, 0.5]}",
            r"augmentation\.crop_scale: expected 0 < low",
        ),
        ("losses: [{loss: clip}]\naugmentation: {mirror: 2}", r"augmentation\.mirror: expected a chance"),
        ("losses: [{loss: clip}]\naugmentation: {stored: -1}", r"augmentation\.stored: expected 0 to 1000"),
        ("losses: [{loss: clip}]\nfew_shot: {share: 1}", r"few_shot\.share: expected a share"),
        ("losses: [{loss: clip}]\ntemplates: [a photo]", r"templates: expected \{\} in every template"),
        ("losses: [{loss: clip}]\ntext_tower: large", r"text_tower: expected one of teacher, none, text-xs"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as raised:
        resolve(path)
    assert "mine.yaml" in raised.value.message


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(RecipeError, match="no distillation recipe 'odd': expected one of ood, tinyclip"):
        resolve("odd")
