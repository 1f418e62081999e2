"""`rtn` in the formats of other tools: values are theirs bit for bit, and the file is smaller than theirs packed."""
