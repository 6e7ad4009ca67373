#!/bin/sh
# Measure benchmarks/results/grid_2cores anew and make the page and the figure from it. Needs the
# `bench` extra and a machine that does nothing else: a quarter of an hour on two cores.
#
#     scripts/measure_grid.sh .venv/bin/python

set -eu
python=${1:-.venv/bin/python}
cd "$(dirname "$0")/.."
folder=benchmarks/results/grid_2cores

"$python" benchmarks/benchmark_memory_analysis.py --output-dir "$folder" \
    --phases forward,both --backends cpu --repeats 15 --configs \
    1,128,100,24 1,1000,100,24 1,10000,100,24 1,100000,100,24 \
    1,1000,4,24 1,1000,16,24 1,1000,500,24 1,1000,1000,24 \
    1,1000,100,3 1,1000,100,8 1,1000,100,40 \
    8,1000,100,24 64,1000,100,24 32,1000,500,24 1,100000,4,3 1,128,1000,40
"$python" benchmarks/benchmark_memory_analysis.py --output-dir "$folder" --resume \
    --phases forward,both --backends cpu,linear_scan_streaming,exact,triton --peers all \
    --repeats 5 --time-limit 20 --configs \
    1,128,4,3 1,128,16,8 8,256,1,9 1,512,16,8 1,1000,4,24 8,512,8,9
"$python" benchmarks/write_performance.py
