"""Back ends: who answers the calls of a labeler."""
