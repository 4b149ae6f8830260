"""Run recipes: on one sample, or on a folder through a pool of workers."""
