"""What changed between two runs: objects, measurements, images and settings.

`runs` opens the folder of a run and tells settings apart, `labels` and `boxes` pair the objects of one image, `tables`
compares measurements, `compare` goes through all images, `account` puts it into words and rows, `pictures` reads what
a page shows.
"""
