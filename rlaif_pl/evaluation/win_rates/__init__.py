"""Several policies on the same prompts, each against each, by several judges."""
