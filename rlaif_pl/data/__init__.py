"""Reading, storing, splitting and batching of prompts and preferences."""
