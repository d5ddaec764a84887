"""What becomes of models that talk: every family, target and recipe, and what each witness says."""
