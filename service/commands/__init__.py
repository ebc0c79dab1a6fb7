"""Commands of the service, mounted by gmn."""
