"""Cartoon pictures: drawn, painted or collected."""
