"""Does a labeler agree with people: figures, tables of labelers, and the gate before training."""
