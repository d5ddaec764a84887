"""The former name of `edgevlm.targets`, kept for one release."""

from edgevlm.bundle.recipe import Recipe as Recipe
from edgevlm.bundle.spec import ComponentSpec as ComponentSpec
from edgevlm.targets import *  # noqa: F403
