"""The calls of kept searches and cases."""
