"""Campaigns that break what a promise is about, and count how often it holds.

    python -m experiments.measurements.faults --campaign=NAME --count=N --seed=S

A campaign is a module of this package with a `PROMISE` in one sentence and a function
`trials(count, seed, folder)`, which yields a `Trial` for each thing that was broken. It
begins from small valid files that it writes itself, and draws all changes from the
seed (`mutators`). What may be expensive runs in a child process with limits of memory
and time (`limited`). The command counts the outcomes, prints them, and with --out=FILE
writes them as a record with the seed, the versions and the commit.
"""
