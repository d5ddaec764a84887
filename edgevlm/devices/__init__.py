"""Which devices there are, what is known of each, and how one reaches it."""
