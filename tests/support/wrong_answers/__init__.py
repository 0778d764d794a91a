"""Wrong answers to the exercises, a module for each set; their source is pasted into a student's notebook."""
