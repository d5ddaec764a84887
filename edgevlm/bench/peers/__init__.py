"""Other toolchains' files of the same model."""
