"""Pictures and words, as a device makes tensors of them."""
