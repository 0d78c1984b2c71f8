"""What is known of a model without running it: its file, profile and sizes; and how it is named and fetched."""
