"""Where images lie: list and read them by name. A folder is the first source."""
