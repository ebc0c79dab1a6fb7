"""Commands of the service, registered by gmn."""
