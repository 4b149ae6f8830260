"""What show.py is made of: the system, its ways, their scores, and counts."""
