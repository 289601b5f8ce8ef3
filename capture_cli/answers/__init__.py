"""What records say: pure functions over a run that is read, answers as frozen dataclasses. Nothing here imports torch."""
