"""Engine adapters: one module for each kind of engine, all behind `base.EngineAdapter`."""
