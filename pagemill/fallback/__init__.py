"""Networks that Pagemill has no file for, computed by transformers on torch.

Owns the way from a folder of safetensors whose architecture `pagemill.models` does not know to a
network that the engine runs like its own: transformers computes everything but attention, which
keeps keys and values in our pages and reads them by a `Step`. So batching, chunks, prefix caching
and preemption are the engine's, unchanged. `choice` and `folder` need neither library: what they
refuse is refused before anything heavy is loaded. The other modules are the only ones of Pagemill
that import torch and transformers, and only an engine process imports them.

Nothing of the model's folder is run or unpickled, and transformers is given no path: it gets
settings and tensors that our own readers have checked. Must not know: names of models, HTTP, text.
"""
