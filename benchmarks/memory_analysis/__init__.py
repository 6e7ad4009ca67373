"""Time and memory of every backend over a grid of sizes; see benchmark_memory_analysis.py."""
