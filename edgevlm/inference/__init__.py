"""An open bundle."""
