"""Work after a search: keep and reopen it, review its results, collect searches in cases."""
