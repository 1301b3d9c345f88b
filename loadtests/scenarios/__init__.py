"""Scenarios: a load that a hospital's afternoon may bring, and the promises that must hold under it."""
