"""Drawn people, served, enrolled and queried: what `gmn demo` runs."""
