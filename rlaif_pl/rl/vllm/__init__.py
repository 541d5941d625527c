"""Responses drawn by vLLM servers: requests, what a server can do, weights out and samples in."""
