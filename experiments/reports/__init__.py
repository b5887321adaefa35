"""What the ledger shows beside the paper: tables, findings and figures."""
