"""What people do after a search: keep it, open it again, review its results, collect cases."""
