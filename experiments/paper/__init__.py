"""The paper as data: its tables and figures, and the numbers that it prints."""
