"""What is known of a model without running it: its file, its profile, its sizes."""
