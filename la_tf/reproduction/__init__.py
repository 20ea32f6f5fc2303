"""The paper's tables, as runs that are compared."""
