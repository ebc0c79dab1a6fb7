"""Image files and manifest rows: decoding, orientation, limits. Imports no model and no HTTP."""
