"""How fast, how much memory, does it fit: asked of devices that are there, emulated or only described."""
