"""What the codes of a tokenizer are good for: how they are used, what they show, what they tell."""
