"""Latency estimated from counts, and the published measurements that it is fitted to."""
