"""Monitoring: has the world changed, and is the champion still good?"""
