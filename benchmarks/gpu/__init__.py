"""`make gpu`: what a GPU does with this code base, in at most ten minutes on one card.

    python -m benchmarks.gpu [--out gpu.json] [--minutes 10] [--only SECTION ...] [--step size=7b,rows=2 ...]
    python -m benchmarks.gpu --device cpu --tiny     # the logic, on a CPU: its figures mean nothing
    python -m benchmarks.gpu.table [gpu.json]        # the tables of README.md

A section is a module with `cases(where)`. It runs in a process of its own, so one that runs out of time or memory, or
that breaks the device, costs no other. Needed are torch 2.11 or later, numpy, pydantic, PyYAML, safetensors, fsspec and
packaging; what else a case needs is skipped by name where it is not installed.
"""
