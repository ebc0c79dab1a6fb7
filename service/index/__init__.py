"""The index of a gallery: its crops in columns, exact vectors, and faster ways to the nearest."""
