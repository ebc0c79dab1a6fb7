"""The desk of an investigator: kept searches, cases and reviews."""
