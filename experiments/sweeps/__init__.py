"""Many runs: which there are, who does them, what they cost, and their ledger."""
