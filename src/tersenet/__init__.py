"""tersenet: the smallest honest file of a trained network that still does its job, and back."""

__version__ = "0.1.0"
