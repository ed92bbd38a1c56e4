"""Which copy of the data is this? Folders, zips and tables of any layout -> the same rows."""
