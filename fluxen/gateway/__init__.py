"""The data plane: listener, exchange, upstream connections, snapshot, worker and supervisor processes."""
