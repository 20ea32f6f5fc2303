"""What a run leaves on disk, how it is watched, and how it is opened again."""
