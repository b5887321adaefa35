"""Reports that compare the ledger with the paper: tables, findings and figures."""
