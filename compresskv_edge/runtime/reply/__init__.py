"""What a model's answer holds beside words: thoughts, and calls of tools in the form that its chat template has."""
