"""What a model weighs: values that are few, and files that are small."""
