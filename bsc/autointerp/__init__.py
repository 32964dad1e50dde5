"""Automatic interpretation: windows, explanations, scores and their controls."""
