"""Sweeps: enumerating, distributing and estimating runs, and their ledger."""
