"""HTML pages of searches and rankings. May import search's top floor and `ranking`."""
