"""Responses drawn by vLLM servers.

::

    client       requests to one server, and its failures by kind
    completions  the body of a request for samples, and what comes back
    facts        what a server can do, read and tried; what of it a run needs
    division     prompts divided among servers; the dead are dropped
    generator    VLLMGenerator: weights out, samples in, one fixed text checked after every update
"""
