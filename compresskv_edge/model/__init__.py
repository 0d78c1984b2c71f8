"""What is known of a model without running it: its file, its profile, its sizes; and its name, and how it is fetched."""
