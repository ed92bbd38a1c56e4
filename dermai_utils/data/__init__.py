"""A copy of the data -> one table, one pixel array, one split."""
