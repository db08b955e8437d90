"""The leaderboard: who is best, and how sure that is. Pure functions of records."""
