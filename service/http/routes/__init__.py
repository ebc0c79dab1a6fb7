"""One router per noun of the URL."""
