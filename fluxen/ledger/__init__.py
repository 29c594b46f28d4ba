"""The ledger: every request, exactly once, also when processes are killed. docs/ledger.md tells the format."""
