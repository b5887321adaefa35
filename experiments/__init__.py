"""The paper's tables and figures, their sweeps and reports, and measurements."""
