"""Validation: is this data fit to learn from, is this model fit to serve?"""
