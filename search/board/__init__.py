"""The leaderboard: which model is best, and how sure that is. Pure functions of records."""
