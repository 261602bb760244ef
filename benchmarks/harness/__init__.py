"""What all benchmarks share: figures from samples, bars, one report format, tables, pictures.

    run = Run("gateway", options)              when, where, of which commit, how configured
    ...                                        measure
    run.write(path, figures, bars)             JSON, the same envelope for all
    return conclude(console, bars, folder)     the bars, the machine; the exit code

Nothing here measures, and nothing here knows a benchmark.
"""
