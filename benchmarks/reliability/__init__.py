"""`make reliability`: break runs in every way that can be had on one machine, and count what did not hold.

    python -m benchmarks.reliability --size ci|large [--only NAME ...]

One module a figure; `world` has what they share. docs/reliability.md tells what each figure shows and what it does not.
"""
