"""Tables, plots and a page from the rows of benchmark_memory_analysis.py."""
