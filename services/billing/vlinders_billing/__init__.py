"""Money: who has how much, what is set aside for running requests, and what each request cost."""
