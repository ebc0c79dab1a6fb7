"""People and their visits: tracklets, groups of crops without names, and who was where when."""
