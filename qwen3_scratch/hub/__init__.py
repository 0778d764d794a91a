"""A name -> a verified folder. Uses nothing of this package but its errors and `trust`."""
