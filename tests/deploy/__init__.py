"""Templates, user data and units: what is deployed, and what becomes of it."""
