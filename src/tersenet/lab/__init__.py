"""What experiments need and no user must have: reference networks, data sets, tasks."""
