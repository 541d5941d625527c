"""Training methods that are loops over the parts: sampling, scoring, filtering, fitting."""
