"""What any process needs, and that knows nothing of training.

Hosts, signals, locks, buckets, compiled programs, files, the terminal, command lines.
"""
