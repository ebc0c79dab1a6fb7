"""Commands of the client, registered by gmn."""
