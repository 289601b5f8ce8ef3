"""Views: answers and records turned into terminal text, tables and pictures. Nothing here imports torch."""
