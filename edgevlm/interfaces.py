"""The former name of `edgevlm.targets`, kept for one release."""

from edgevlm.targets import *  # noqa: F403
