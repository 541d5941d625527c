"""How labelers ask: prompt files, examples, both orders, and verdicts found in written text."""
