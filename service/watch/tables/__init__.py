"""The tables of watch lists, cameras, alerts and webhooks: statements and the rules around them."""
