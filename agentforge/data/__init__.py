"""Data: from files and data sets to tokenised rows."""
