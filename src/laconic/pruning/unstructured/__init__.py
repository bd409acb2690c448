"""Single weights, small blocks and N of M: what becomes zero where it stands, and how training goes on around it."""
