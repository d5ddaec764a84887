"""What a search has measured so far: `tune.json`, from which it goes on when it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgevlm import schema
from edgevlm.bundle.recipe import Recipe
from edgevlm.errors import OutputError
from edgevlm.process.writing import write_atomically
from edgevlm.tuning.sensitivity import LayerCost
from edgevlm.tuning.trial import Trial

STATE = "tune.json"


@dataclass(frozen=True)
class _State:
    """What the file holds."""

    schema_version: int
    identity: Mapping[str, str]
    costs: Mapping[str, tuple[LayerCost, ...]]
    chosen: Mapping[str, Recipe]
    trials: tuple[Trial, ...]


class Notes:
    """`tune.json`, written anew after every measurement."""

    def __init__(self, path: Path, state: _State) -> None:
        self._path = path
        self._state = state

    @classmethod
    def open(cls, out: Path, identity: Mapping[str, str]) -> Notes:
        """Those of a search that was stopped, or new ones.

        Args:
            out: Folder of the search.
            identity: What it is about, by key; all that moves a measurement.

        Raises:
            OutputError: they are of another search.
        """
        path = out / STATE
        if not path.exists():
            return cls(path, _State(1, identity, {}, {}, ()))
        found = schema.read_json(path, error=OutputError, hint="remove it")
        state = schema.read(_State, found, where=str(path), error=OutputError)
        differing = [key for key, value in identity.items() if state.identity.get(key) != value]
        if differing:
            raise OutputError(
                f"{out}: holds a search with another {', '.join(differing)}",
                hint="write elsewhere with --out, or remove that folder",
            )
        return cls(path, state)

    @property
    def costs(self) -> Mapping[str, tuple[LayerCost, ...]]:
        """Of each layer, by the recipe's name."""
        return self._state.costs

    def chosen(self, family: str) -> Recipe | None:
        """The rival that did best in torch."""
        return self._state.chosen.get(family)

    def find(self, recipe: Recipe) -> Trial | None:
        """The trial of a recipe."""
        return next((trial for trial in self._state.trials if trial.recipe == recipe), None)

    def add_trial(self, trial: Trial) -> None:
        self._write(replace(self._state, trials=(*self._state.trials, trial)))

    def choose(self, family: str, recipe: Recipe) -> None:
        self._write(replace(self._state, chosen={**self._state.chosen, family: recipe}))

    def add_cost(self, recipe: str, cost: LayerCost) -> None:
        costs = {**self._state.costs, recipe: (*self._state.costs.get(recipe, ()), cost)}
        self._write(replace(self._state, costs=costs))

    def _write(self, state: _State) -> None:
        self._state = state
        write_atomically(self._path, json.dumps(schema.write(state), indent=2) + "\n")
