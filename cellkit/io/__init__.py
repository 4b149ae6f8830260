"""Read images and labels, write results."""
