"""Doubtful crops: named crops that agree too little with their person, or too well with another."""
