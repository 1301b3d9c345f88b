"""HTTP routes: thin, no logic."""
