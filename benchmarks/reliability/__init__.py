"""`make reliability`: break runs in every way that one machine allows, and count what did not hold.

    python -m benchmarks.reliability --size ci|large [--only NAME ...]

One module per figure; `world` holds what they share. docs/reliability.md explains what each figure shows and what it does not.
"""
