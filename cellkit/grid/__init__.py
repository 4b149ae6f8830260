"""Pure tile geometry: cover, blend, seams."""
