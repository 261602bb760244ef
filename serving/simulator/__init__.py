"""An engine without a model: real HTTP, a real block cache, modelled time."""
