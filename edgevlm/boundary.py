"""The former name of what `edgevlm.targets` hands out as well, kept for one release."""

from edgevlm.bundle.spec import Array as Array
from edgevlm.bundle.spec import ComponentSpec as ComponentSpec
from edgevlm.bundle.spec import TensorSpec as TensorSpec
from edgevlm.errors import InputError as InputError
from edgevlm.errors import TensorError as TensorError
from edgevlm.targets.boundary import find_component as find_component
from edgevlm.targets.boundary import validate_inputs as validate_inputs
from edgevlm.targets.boundary import validate_threads as validate_threads
