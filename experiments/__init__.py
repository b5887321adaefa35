"""One file per table or figure: what was run, measured and found."""
