"""What became of harmful requests; prompts and responses are counted here, never shown."""
