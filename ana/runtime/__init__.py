"""The process that runs: threads, memory, limits, counters, streams and signals."""
