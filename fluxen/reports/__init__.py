"""Named queries over the ledger. Plain SQL with exact sums; what they return is data, printing is the CLI's."""
