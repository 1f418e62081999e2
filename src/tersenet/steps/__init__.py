"""The verbs methods are made of."""
