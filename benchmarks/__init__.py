"""Measurements that people run: `python -m benchmarks.many`."""
