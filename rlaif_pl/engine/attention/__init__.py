"""Attention of packed batches inside the layers of any transformers decoder.

transformers lets an attention function be registered by name. Ours is put in front of the one a model
has: given a ``PackedContext`` it attends within the texts of a packed batch, without one it hands on to
the model's own. So layers, rotary positions, adapters and recomputation stay the library's.

- ``dispatch``: what is registered with transformers.
- ``leaf``: attention of runs of queries to runs of keys, on a CPU, a GPU, or by plain products.
- ``segments``: a packed batch by blocks; a prefix's keys stand once for all that continue it.
- ``reference``: text by text: the definition, and windows and soft caps.
"""
