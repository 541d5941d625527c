"""Responses drawn by vLLM servers.

::

    client     requests for samples, failures by kind, prompts divided among servers
    facts      what a server can do, read and tried; what of it a run needs
    transfer   all weights from GPU to GPU over NCCL
    generator  VLLMGenerator: weights out, samples in, one fixed text checked after every update
"""
